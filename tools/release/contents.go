// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// sbom lists what Go says is in the binary, in CycloneDX's JSON.
func (r *release) sbom(a *artifact, info *debug.BuildInfo) ([]byte, error) {
	application := component(cdx.ComponentTypeApplication, module, r.version)
	application.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "MPL-2.0"}}}
	application.Hashes = &[]cdx.Hash{{
		Algorithm: cdx.HashAlgoSHA256,
		Value:     fmt.Sprintf("%x", sha256.Sum256(a.binary)),
	}}
	var settings []cdx.Property
	for _, setting := range info.Settings {
		settings = append(settings, cdx.Property{Name: "go:build:" + setting.Key, Value: setting.Value})
	}
	application.Properties = &settings

	// Scanners for vulnerabilities know Go's own packages by this name and version.
	libraries := []cdx.Component{component(cdx.ComponentTypeLibrary, "stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, dep := range info.Deps {
		libraries = append(libraries, component(cdx.ComponentTypeLibrary, dep.Path, dep.Version))
	}
	var parts []string
	for _, library := range libraries {
		parts = append(parts, library.BOMRef)
	}

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Timestamp: r.time.Format(time.RFC3339), Component: &application}
	bom.Components = &libraries
	bom.Dependencies = &[]cdx.Dependency{{Ref: application.BOMRef, Dependencies: &parts}}

	var buffer bytes.Buffer
	encoder := cdx.NewBOMEncoder(&buffer, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	err := encoder.EncodeVersion(bom, cdx.SpecVersion1_6)
	return buffer.Bytes(), err
}

func component(kind cdx.ComponentType, path, version string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cdx.Component{Type: kind, Name: path, Version: version, PackageURL: purl, BOMRef: purl}
}

var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-.](\w+))?$`)

// thirdPartyLicenses returns the licences of Go and of the modules in the binary: most
// of them ask that whoever passes the binary on passes them on too.
func (r *release) thirdPartyLicenses(info *debug.BuildInfo) ([]byte, error) {
	goroot, err := output(r.goCommand("env", "GOROOT"))
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := appendLicenses(&text, "Go "+info.GoVersion, goroot); err != nil {
		return nil, err
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
		return fmt.Errorf("look for the licence of %s: %w", name, err)
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
		found = true
		fmt.Fprintf(text, "==== %s: %s\n\n%s\n\n", name, file.Name(), bytes.TrimSpace(content))
	}
	if !found {
		return fmt.Errorf("there is no licence in %s, the source of %s", dir, name)
	}
	return nil
}
