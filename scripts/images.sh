#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: images.sh VERSION /DIST /FOLDER
#
# Builds the images of a release from its archives in DIST, as OCI layouts in FOLDER. It needs Docker's buildx.
set -eu
cd "$(dirname "$0")/.."
version=${1#v}
source=https://github.com/fuuffy/vault-plugin-secrets-fuuffy
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

mkdir -p "$3"
for target in plugin shell sandbox; do
	docker buildx build --file Dockerfile --target "$target" --build-arg "VERSION=$version" \
		--platform linux/amd64,linux/arm64 --provenance=false --sbom=false \
		--label "org.opencontainers.image.source=$source" \
		--label "org.opencontainers.image.version=$version" \
		--label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
		--label "org.opencontainers.image.licenses=MPL-2.0" \
		--output "type=oci,dest=$3/$target,tar=false,rewrite-timestamp=true" "$2"
done
