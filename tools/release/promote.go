// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// promote tags the images and publishes the draft, if they are what was verified. If a step
// fails, it removes the tags that it made.
func (d *delivery) promote() error {
	verified, err := readSums(d.path(verifiedSums))
	if err != nil {
		return fmt.Errorf("run verify first, because only what it verified becomes public: %w", err)
	}
	staged, err := sumsOf(d.path("staged"))
	if err != nil {
		return err
	}
	if !maps.Equal(verified, staged) {
		return fmt.Errorf("these files changed since verify: %s", strings.Join(difference(verified, staged), ", "))
	}
	switch draft, err := d.isDraft(); {
	case err != nil:
		return err
	case !draft:
		return fmt.Errorf("%s is public already", d.version)
	}
	if err := d.compareDraft(verified); err != nil {
		return err
	}
	missing, err := d.missingTags()
	if err != nil {
		return err
	}
	var made []name.Tag
	err = func() error {
		for _, m := range missing {
			made = append(made, m.tag) // It may be made even if the answer is lost.
			if err := remote.Tag(m.tag, m.image, login); err != nil {
				return fmt.Errorf("tag %s: %w", m.tag, err)
			}
			fmt.Printf("tagged %s\n", m.tag)
		}
		return d.publish()
	}()
	if err != nil {
		return errors.Join(err, untag(made))
	}
	fmt.Printf("published %s\n", d.version)
	return nil
}

// missing is a tag that an image doesn't have yet.
type missing struct {
	tag   name.Tag
	image *remote.Descriptor
}

// missingTags returns the tags to make. It looks at all of them before the first is made.
func (d *delivery) missingTags() (all []missing, err error) {
	staged, err := d.stagedImages()
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		found, err := remote.Get(staged[image.target], login)
		if err != nil {
			return nil, fmt.Errorf("look for the image %s: %w", image.target, err)
		}
		for _, text := range image.tags(d.version) {
			tag, err := name.NewTag(d.repository(image) + ":" + text)
			if err != nil {
				return nil, err
			}
			switch there, err := remote.Head(tag, login); {
			case notFound(err):
				all = append(all, missing{tag, found})
			case err != nil:
				return nil, fmt.Errorf("look for %s: %w", tag, err)
			case there.Digest != found.Digest:
				return nil, fmt.Errorf("%s already belongs to another image, %s", tag, there.Digest)
			}
		}
	}
	return all, nil
}

func notFound(err error) bool {
	refused, ok := errors.AsType[*transport.Error](err)
	return ok && refused.StatusCode == http.StatusNotFound
}

// publish publishes the draft. If the answer was lost, it asks.
func (d *delivery) publish() error {
	_, err := d.run(d.root, "gh", "release", "edit", d.version, "--draft=false")
	if err == nil {
		return nil
	}
	if draft, lost := d.isDraft(); lost == nil && !draft {
		return nil
	}
	return fmt.Errorf("publish the draft: %w", err)
}

// untag removes tags. GitHub's registry doesn't allow that.
func untag(tags []name.Tag) error {
	var left []string
	for _, tag := range tags {
		if err := remote.Delete(tag, login); err != nil && !notFound(err) {
			left = append(left, tag.String())
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("these tags of verified images are public, because the registry didn't remove them: %s. Run promote again: it creates only the missing tags",
		strings.Join(left, ", "))
}
