// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	mit  = "Copyright (c) 2026 Somebody\n\nPermission is hereby\n   granted, free of charge, to any person\n"
	mpl2 = "Mozilla Public License, version 2.0\n\n1.12. Secondary License means the GNU General Public License, Version 2.0\n"
	gpl  = "GNU GENERAL PUBLIC LICENSE\nThis is free software under the GNU General Public License\n"
	bsl  = "Business Source License 1.1\n"
)

func TestLicenses(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		fails string
	}{
		"MIT":                  {files: map[string]string{"LICENSE": mit}},
		"MPL":                  {files: map[string]string{"LICENSE.md": mpl2}},
		"with a notice":        {files: map[string]string{"LICENSE": mit, "NOTICE": "Somebody made it."}},
		"nothing":              {files: map[string]string{"README.md": mit}, fails: "there is no license in"},
		"a notice only":        {files: map[string]string{"NOTICE": "Somebody made it."}, fails: "there is no license in"},
		"GPL":                  {files: map[string]string{"COPYING": gpl}, fails: "COPYING of example.com/m v1.0.0"},
		"BSL":                  {files: map[string]string{"LICENSE": bsl}, fails: "LICENSE of example.com/m v1.0.0"},
		"MIT, and GPL":         {files: map[string]string{"LICENSE": mit + gpl}, fails: "LICENSE of example.com/m v1.0.0"},
		"MPL, and BSL":         {files: map[string]string{"LICENSE": mpl2 + bsl}, fails: "LICENSE of example.com/m v1.0.0"},
		"GPL in a second file": {files: map[string]string{"LICENSE": mit, "LICENSE-GPL": gpl}, fails: "LICENSE-GPL of example.com/m v1.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range test.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var text bytes.Buffer
			err := appendLicenses(&text, "example.com/m v1.0.0", dir)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("the error is %v, without %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range test.files {
				if !strings.Contains(text.String(), "==== example.com/m v1.0.0: "+file+"\n\n"+strings.TrimSpace(content)) {
					t.Errorf("%s is not passed on in %q", file, text.String())
				}
			}
		})
	}
}
