// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// mutant is a file with one change.
type mutant struct {
	file, function string
	line           int
	// from is what the change replaces by to; nth tells those apart that look alike.
	from, to string
	nth      int
	source   []byte
}

// name tells mutants apart even if lines move.
func (m mutant) name() string {
	to := m.to
	if to == "" {
		to = "nothing"
	}
	name := fmt.Sprintf("%s %s: %s → %s", m.file, m.function, oneLine(m.from), oneLine(to))
	if m.nth > 1 {
		name += fmt.Sprintf(" (%d)", m.nth)
	}
	return name
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// mutator makes the mutants of one file.
type mutator struct {
	file     string
	source   []byte
	fset     *token.FileSet
	function string
	mutants  []mutant
	seen     map[string]int
}

// mutate returns all mutants of a file.
func mutate(file string, source []byte) ([]mutant, error) {
	m := &mutator{file: file, source: source, fset: token.NewFileSet(), seen: map[string]int{}}
	parsed, err := parser.ParseFile(m.fset, file, source, 0)
	if err != nil {
		return nil, err
	}
	for _, declared := range parsed.Decls {
		switch d := declared.(type) {
		case *ast.FuncDecl:
			m.function = d.Name.Name
			if d.Body != nil {
				ast.Inspect(d.Body, m.visit)
			}
		case *ast.GenDecl:
			if d.Tok == token.CONST {
				m.function = "const"
				ast.Inspect(d, m.visit)
			}
		}
	}
	return m.mutants, nil
}

// swaps are the operators to confuse.
var swaps = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.EQL: token.NEQ, token.NEQ: token.EQL, token.LAND: token.LOR, token.LOR: token.LAND,
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL,
}

// visit adds the mutants of one node of the tree.
func (m *mutator) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if to, ok := swaps[n.Op]; ok {
			m.replace(n, m.text(n.X)+" "+to.String()+" "+m.text(n.Y))
		}
		if n.Op == token.LAND || n.Op == token.LOR {
			m.replace(n, m.text(n.X))
			m.replace(n, m.text(n.Y))
		}
	case *ast.IfStmt:
		m.replace(n.Cond, "!("+m.text(n.Cond)+")")
	case *ast.BasicLit:
		if value, err := strconv.Atoi(n.Value); err == nil && n.Kind == token.INT {
			m.replace(n, strconv.Itoa(value+1))
		}
	case *ast.Ident:
		switch n.Name {
		case "true":
			m.replace(n, "false")
		case "false":
			m.replace(n, "true")
		case "min":
			m.replace(n, "max")
		case "max":
			m.replace(n, "min")
		}
	case *ast.ReturnStmt:
		if len(n.Results) > 0 {
			if last, ok := n.Results[len(n.Results)-1].(*ast.Ident); ok && last.Name == "err" {
				m.replace(last, "nil")
			}
		}
	case *ast.BlockStmt:
		m.locks(n.List)
		for _, s := range n.List {
			m.remove(s)
		}
	case *ast.CaseClause:
		for _, s := range n.Body {
			m.remove(s)
		}
	}
	return true
}

// remove leaves a statement out, if what remains may still compile.
func (m *mutator) remove(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.DeferStmt:
		m.replace(s, m.text(s.Call)) // Now rather than at the end.
		m.replace(s, "")
	case *ast.AssignStmt:
		if s.Tok != token.DEFINE {
			m.replace(s, "")
		}
	case *ast.ExprStmt, *ast.GoStmt, *ast.SendStmt, *ast.IncDecStmt, *ast.ReturnStmt:
		m.replace(s, "")
	}
}

// locks leaves out a Lock together with the deferred Unlock that follows it.
func (m *mutator) locks(list []ast.Stmt) {
	for i := range len(list) - 1 {
		lock, isCall := list[i].(*ast.ExprStmt)
		unlock, isDefer := list[i+1].(*ast.DeferStmt)
		if isCall && isDefer && strings.HasSuffix(m.text(lock), ".Lock()") && strings.HasSuffix(m.text(unlock), ".Unlock()") {
			m.change(lock.Pos(), unlock.End(), "")
		}
	}
}

func (m *mutator) text(n ast.Node) string {
	return string(m.source[m.offset(n.Pos()):m.offset(n.End())])
}

func (m *mutator) offset(p token.Pos) int { return m.fset.Position(p).Offset }

func (m *mutator) replace(n ast.Node, to string) { m.change(n.Pos(), n.End(), to) }

func (m *mutator) change(from, to token.Pos, text string) {
	begin, end := m.offset(from), m.offset(to)
	made := mutant{
		file: m.file, function: m.function, line: m.fset.Position(from).Line,
		from: string(m.source[begin:end]), to: text,
		source: slices.Concat(m.source[:begin], []byte(text), m.source[end:]),
	}
	m.seen[made.name()]++
	made.nth = m.seen[made.name()]
	m.mutants = append(m.mutants, made)
}
