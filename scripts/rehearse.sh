#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: rehearse.sh /FOLDER VERSION PLATFORMS
#
# Makes a release for tests in FOLDER/release. FOLDER/make-release, the release tool, makes it in
# FOLDER/checkout: a commit of this working tree with the tag VERSION. Use a new FOLDER each time.
set -eu
cd "$(dirname "$0")/.."
git init --quiet "$1/checkout"
git --git-dir="$1/checkout/.git" --work-tree=. add --all
go build -C tools/release -o "$1/make-release" .
cd "$1/checkout"
git -c user.name=e2e -c user.email=e2e@example.com -c commit.gpgsign=false commit --quiet --message=Release
git -c tag.gpgsign=false tag "$2"
git reset --quiet --hard
../make-release build -platforms="$3" -out="$1/release"
