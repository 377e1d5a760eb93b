#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: rehearse.sh FOLDER VERSION
#
# Makes what tests need to make a release in FOLDER: checkout, a commit of this working tree
# with the tag VERSION, and make-release, the program that makes a release of it.
set -eu
cd "$(dirname "$0")/.."
git init --quiet "$1/checkout"
git --git-dir="$1/checkout/.git" --work-tree=. add --all
go build -C tools/release -o "$1/make-release" .
cd "$1/checkout"
git -c user.name=e2e -c user.email=e2e@example.com -c commit.gpgsign=false commit --quiet --message=Release
git -c tag.gpgsign=false tag "$2"
git reset --quiet --hard
