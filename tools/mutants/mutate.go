// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kind is what a mutant changes, which decides how it can be switched on and off.
type kind int

const (
	condition kind = iota
	value
	statement
)

// mutant is one change of a file.
type mutant struct {
	file, function string
	at             position
	kind           kind
	source         []byte
	// begin and end are where the change is in the source, and to is what comes there.
	begin, end int
	to         string
	// nth tells mutants apart that look alike.
	nth int
	// number is the mutant's in a run, and first and last are its lines in the overlay.
	number      string
	first, last int
}

func (m *mutant) from() string { return string(m.source[m.begin:m.end]) }

// name tells mutants apart even if lines move.
func (m *mutant) name() string {
	to := oneLine(m.to)
	if to == "" {
		to = "nothing"
	}
	name := fmt.Sprintf("%s %s: %s → %s", m.file, m.function, oneLine(m.from()), to)
	if m.nth > 1 {
		name += fmt.Sprintf(" (%d)", m.nth)
	}
	return name
}

func (m *mutant) String() string { return fmt.Sprintf("%s:%d: %s", m.file, m.at.line, m.name()) }

// locks tells whether the mutant changes when something is locked. What that breaks, the race
// detector notices.
func (m *mutant) locks() bool { return m.kind == statement && lockOrUnlock.MatchString(m.from()) }

var lockOrUnlock = regexp.MustCompile(`\b([Ll]ock|[Uu]nlock)\(\)`)

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func (m *mutant) overlaps(o *mutant) bool {
	return m.file == o.file && m.begin < o.end && o.begin < m.end
}

// guarded is code that switches between the change and the original.
func (m *mutant) guarded() string {
	from := m.from()
	switch m.kind {
	case condition:
		return fmt.Sprintf("(mutantOn(%[1]s) && (%[2]s) || !mutantOn(%[1]s) && (%[3]s))", m.number, m.to, from)
	case value:
		return fmt.Sprintf("mutantEither(%s, %s, %s)", m.number, m.to, from)
	}
	if m.to == "" {
		return fmt.Sprintf("if !mutantOn(%s) { %s }", m.number, from)
	}
	return fmt.Sprintf("if mutantOn(%s) { %s } else { %s }", m.number, m.to, from)
}

// mutator makes the mutants of one file.
type mutator struct {
	file     string
	source   []byte
	fset     *token.FileSet
	function string
	mutants  []*mutant
	seen     map[string]int
	// open are the blocks after which a function goes on, whether they return or not.
	open map[ast.Node]bool
}

// mutate returns all mutants of a file.
func mutate(file string, source []byte) ([]*mutant, error) {
	m := &mutator{file: file, source: source, fset: token.NewFileSet(), seen: map[string]int{}, open: map[ast.Node]bool{}}
	parsed, err := parser.ParseFile(m.fset, file, source, 0)
	if err != nil {
		return nil, err
	}
	for _, declared := range parsed.Decls {
		if f, ok := declared.(*ast.FuncDecl); ok && f.Body != nil {
			m.function = f.Name.Name
			ast.Inspect(f.Body, m.visit)
		}
	}
	return m.mutants, nil
}

// comparisons and calculations are the operators to confuse.
var (
	comparisons = map[token.Token]token.Token{
		token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
		token.EQL: token.NEQ, token.NEQ: token.EQL,
	}
	calculations = map[token.Token]token.Token{token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL}
)

// visit adds the mutants of one node of the tree.
func (m *mutator) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		x, y := m.text(n.X), m.text(n.Y)
		if to, ok := comparisons[n.Op]; ok {
			m.replace(n, condition, x+" "+to.String()+" "+y)
		}
		if to, ok := calculations[n.Op]; ok && !strings.Contains(x+y, `"`) {
			m.replace(n, value, x+" "+to.String()+" "+y)
		}
		if n.Op == token.LAND || n.Op == token.LOR {
			m.replace(n, condition, x)
			m.replace(n, condition, y)
		}
	case *ast.IfStmt:
		m.open[n.Body] = n.Else == nil
		if _, compares := n.Cond.(*ast.BinaryExpr); !compares {
			m.replace(n.Cond, condition, "!("+m.text(n.Cond)+")")
		}
	case *ast.BasicLit:
		if number, err := strconv.Atoi(n.Value); err == nil && n.Kind == token.INT {
			m.replace(n, value, strconv.Itoa(number+1))
		}
	case *ast.Ident:
		switch n.Name {
		case "true":
			m.replace(n, condition, "false")
		case "false":
			m.replace(n, condition, "true")
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "min" || f.Name == "max") {
			other := map[string]string{"min": "max", "max": "min"}[f.Name]
			m.replace(n, value, other+strings.TrimPrefix(m.text(n), f.Name))
		}
	case *ast.SwitchStmt:
		for _, c := range n.Body.List {
			m.open[c] = !hasDefault(n)
		}
	case *ast.BlockStmt:
		m.statements(n.List, m.open[n])
	case *ast.CaseClause:
		m.statements(n.Body, m.open[n])
	}
	return true
}

func hasDefault(s *ast.SwitchStmt) bool {
	return slices.ContainsFunc(s.Body.List, func(c ast.Stmt) bool { return c.(*ast.CaseClause).List == nil })
}

// statements removes one statement after the other, and a return where that compiles.
func (m *mutator) statements(list []ast.Stmt, open bool) {
	for i, s := range list {
		switch s := s.(type) {
		case *ast.DeferStmt:
			m.replace(s, statement, m.text(s.Call)) // Now rather than at the end.
			if i > 0 && strings.HasSuffix(m.text(list[i-1]), ".Lock()") && strings.HasSuffix(m.text(s), ".Unlock()") {
				m.change(list[i-1].Pos(), s.End(), statement, "")
			}
		case *ast.AssignStmt:
			if s.Tok != token.DEFINE {
				m.replace(s, statement, "")
			}
		case *ast.ReturnStmt:
			if open {
				m.replace(s, statement, "")
			}
			m.returnNil(s)
		case *ast.ExprStmt, *ast.GoStmt, *ast.SendStmt, *ast.IncDecStmt:
			m.replace(s, statement, "")
		}
	}
}

// returnNil drops the returned error.
func (m *mutator) returnNil(s *ast.ReturnStmt) {
	if len(s.Results) == 0 {
		return
	}
	if last, ok := s.Results[len(s.Results)-1].(*ast.Ident); ok && last.Name == "err" {
		m.replace(s, statement, strings.TrimSuffix(m.text(s), "err")+"nil")
	}
}

func (m *mutator) text(n ast.Node) string {
	return string(m.source[m.offset(n.Pos()):m.offset(n.End())])
}

func (m *mutator) offset(p token.Pos) int { return m.fset.Position(p).Offset }

func (m *mutator) replace(n ast.Node, k kind, to string) { m.change(n.Pos(), n.End(), k, to) }

func (m *mutator) change(from, to token.Pos, k kind, text string) {
	start := m.fset.Position(from)
	made := &mutant{
		file: m.file, function: m.function, at: position{start.Line, start.Column},
		kind: k, source: m.source, begin: m.offset(from), end: m.offset(to), to: text,
	}
	m.seen[made.name()]++
	made.nth = m.seen[made.name()]
	m.mutants = append(m.mutants, made)
}
