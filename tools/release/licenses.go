// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
)

var (
	licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-.](\w+))?$`)
	// noLicense are files that supplement a license, or are not about code.
	noLicense = regexp.MustCompile(`(?i)^(notice|patents)|\.docs$`)
)

// The licenses that code in the programs may have, by a sentence of each. The MPL mentions the
// GPL as compatible; a file with one of the others must not mention it.
var (
	mpl        = regexp.MustCompile(`Mozilla Public License,? [Vv]ersion 2\.0`)
	permissive = regexp.MustCompile(strings.Join([]string{
		`Apache License,? Version 2\.0`,
		`Permission is hereby granted, free of charge`, // MIT
		`Redistribution and use in source and binary forms, with or without modification, are permitted`, // BSD
		`Permission to use, copy, modify, and/or distribute this software for any purpose`,               // ISC
	}, "|"))
	gnu    = regexp.MustCompile(`GNU (Affero |Lesser |Library )?General Public License`)
	unfree = regexp.MustCompile(`Business Source License|Server Side Public License|Commons Clause`)
)

func allowed(license string) bool {
	license = strings.Join(strings.Fields(license), " ")
	return !unfree.MatchString(license) &&
		(mpl.MatchString(license) || permissive.MatchString(license) && !gnu.MatchString(license))
}

// thirdPartyLicenses returns the licenses of Go and of the modules in the binary. Most of them
// require that whoever distributes the binary distributes them too.
func (r *release) thirdPartyLicenses(info *debug.BuildInfo) ([]byte, error) {
	goroot, err := output(r.goCommand("env", "GOROOT"))
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := appendLicenses(&text, "Go "+info.GoVersion, goroot); err != nil {
		return nil, err
	}
	if len(info.Deps) == 0 {
		return text.Bytes(), nil
	}
	list := r.goCommand("list", "-m", "-f", "{{.Path}} {{.Version}}\t{{.Dir}}")
	for _, dep := range info.Deps {
		list.Args = append(list.Args, dep.Path)
	}
	modules, err := output(list)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(modules) {
		name, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if err := appendLicenses(&text, name, dir); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

func appendLicenses(text *bytes.Buffer, name, dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for the license of %s: %w", name, err)
	}
	found := false
	for _, file := range files {
		if !licenseFile.MatchString(file.Name()) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return err
		}
		if !noLicense.MatchString(file.Name()) {
			if !allowed(string(content)) {
				return fmt.Errorf("%s of %s has a license that is not allowed here: see tools/release/licenses.go", file.Name(), name)
			}
			found = true
		}
		fmt.Fprintf(text, "==== %s: %s\n\n%s\n\n", name, file.Name(), bytes.TrimSpace(content))
	}
	if !found {
		return fmt.Errorf("there is no license in %s, the source of %s", dir, name)
	}
	return nil
}
