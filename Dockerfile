# SPDX-License-Identifier: MPL-2.0
#
# An image of the plugin for Vault's container runtime: see docs/releasing.md.
# GO_VERSION and VERSION of a release give the very binary of that release.

ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=v0.1.0-dev
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/fuuffy/vault-plugin-secrets-fuuffy.version=$VERSION" \
    -o bin/ ./cmd/vault-plugin-secrets-fuuffy

FROM scratch
ARG VERSION=v0.1.0-dev
LABEL org.opencontainers.image.title=vault-plugin-secrets-fuuffy \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.licenses=MPL-2.0
COPY LICENSE /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/bin/vault-plugin-secrets-fuuffy /bin/
USER 65532:65532
ENTRYPOINT ["/bin/vault-plugin-secrets-fuuffy"]
