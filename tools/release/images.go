// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// image is a target of the Dockerfile.
type image struct {
	target string
	// program is what is in it, and names its repository too.
	program string
	suffix  string
}

var images = []image{{"plugin", plugin, ""}, {"shell", plugin, "-shell"}, {"sandbox", sandbox, ""}}

// tags are the image's public tags. Vault looks for the version without v, OpenBao with it.
func (i image) tags(version string) []string {
	return []string{strings.TrimPrefix(version, "v") + i.suffix, version + i.suffix}
}

func (d *delivery) repository(i image) string { return d.registry + "/" + i.program }

// login is the one that "docker login" saved.
var login = remote.WithAuthFromKeychain(authn.DefaultKeychain)

// layouts returns the images of all targets, if they have the programs that were built.
func (d *delivery) layouts(binarySums map[string]string) (map[string]v1.ImageIndex, error) {
	all := map[string]v1.ImageIndex{}
	for _, image := range images {
		found, err := fromLayout(filepath.Join(d.path("images"), image.target))
		if err == nil {
			err = d.checkPrograms(image, found, binarySums)
		}
		if err != nil {
			return nil, fmt.Errorf("the image %s: %w", image.target, err)
		}
		all[image.target] = found
	}
	return all, nil
}

// fromLayout returns the only image in an OCI layout.
func fromLayout(folder string) (v1.ImageIndex, error) {
	all, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, err
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images", folder, len(manifest.Manifests))
	}
	return all.ImageIndex(manifest.Manifests[0].Digest)
}

// checkPrograms compares the programs of an image, one for each platform, with their checksums.
func (d *delivery) checkPrograms(i image, index v1.ImageIndex, binarySums map[string]string) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var platforms []string
	for _, described := range manifest.Manifests {
		if described.Platform == nil {
			return errors.New("it doesn't say for which platforms it is")
		}
		platform := described.Platform.OS + "/" + described.Platform.Architecture
		platforms = append(platforms, platform)
		single, err := index.Image(described.Digest)
		if err != nil {
			return err
		}
		sum, err := programSum(single, i.program)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		name := fmt.Sprintf("%s_%s_%s/%s", i.program, strings.TrimPrefix(d.version, "v"), strings.ReplaceAll(platform, "/", "_"), i.program)
		if binarySums[name] != sum {
			return fmt.Errorf("its %s for %s is not the one in the archive", i.program, platform)
		}
	}
	if strings.Join(platforms, " ") != "linux/amd64 linux/arm64" {
		return fmt.Errorf("it is for %q, not for linux/amd64 and linux/arm64", platforms)
	}
	return nil
}

// programSum returns the checksum of a program in the root of an image.
func programSum(single v1.Image, program string) (string, error) {
	content := mutate.Extract(single)
	defer content.Close()
	for files := tar.NewReader(content); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("there is no /%s", program)
		}
		if err != nil {
			return "", err
		}
		if path.Clean("/"+header.Name) == "/"+program {
			sum := sha256.New()
			_, err := io.Copy(sum, files)
			return fmt.Sprintf("%x", sum.Sum(nil)), err
		}
	}
}

// push pushes an image without a tag.
func (d *delivery) push(i image, index v1.ImageIndex) (v1.Hash, error) {
	digest, err := index.Digest()
	if err != nil {
		return v1.Hash{}, err
	}
	ref, err := name.NewDigest(d.repository(i) + "@" + digest.String())
	if err != nil {
		return v1.Hash{}, err
	}
	return digest, remote.WriteIndex(ref, index, login)
}

// stagedImages returns the images that IMAGE_SHA256SUMS lists.
func (d *delivery) stagedImages() (map[string]name.Digest, error) {
	sums, err := readSums(filepath.Join(d.path("staged"), imageSums))
	if err != nil {
		return nil, err
	}
	all := map[string]name.Digest{}
	for _, image := range images {
		sum := sums[d.repository(image)+":"+image.tags(d.version)[0]]
		if all[image.target], err = name.NewDigest(d.repository(image) + "@sha256:" + sum); err != nil {
			return nil, fmt.Errorf("%s doesn't list the image %s: %w", imageSums, image.target, err)
		}
	}
	return all, nil
}
