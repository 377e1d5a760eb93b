// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// sbom lists what Go says is in the binary, in CycloneDX's JSON.
func (r *release) sbom(a *artifact, info *debug.BuildInfo) ([]byte, error) {
	application := component(cdx.ComponentTypeApplication, module, r.version)
	application.Name = a.program
	application.PackageURL += "#cmd/" + a.program
	application.BOMRef = application.PackageURL
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
