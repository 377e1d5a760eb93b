# SPDX-License-Identifier: MPL-2.0
#
# The images of a release: see docs/releasing.md. They have the programs of its archives, so the build context is the
# folder that `make release` writes:
#
#     docker build -f Dockerfile --target plugin --build-arg VERSION=0.1.0 dist

FROM --platform=$BUILDPLATFORM alpine:3.23.4@sha256:5b10f432ef3da1b8d4c7eb6c487f2f5a8f096bc91145e68878dd4a5019afde11 AS files
ARG VERSION
ARG TARGETARCH
WORKDIR /archives
COPY SHA256SUMS *_${VERSION}_linux_${TARGETARCH}.zip ./
RUN grep "_linux_$TARGETARCH\.zip\$" SHA256SUMS | sha256sum -c && \
    mkdir /plugin /sandbox && \
    unzip -d /plugin vault-plugin-secrets-fuuffy_*.zip && \
    unzip -d /sandbox fuuffy-sandbox_*.zip && \
    chmod 0755 /plugin/vault-plugin-secrets-fuuffy /sandbox/fuuffy-sandbox && \
    mkdir -p /plugin/etc/ssl/certs && cp /etc/ssl/certs/ca-certificates.crt /plugin/etc/ssl/certs/ && \
    mkdir -m 1777 /sandbox/tmp

# Vault's container runtime starts the plugin. OpenBao copies it out, and looks for it in the root.
FROM scratch AS plugin
COPY --from=files /plugin/ /
USER 65532:65532
ENTRYPOINT ["/vault-plugin-secrets-fuuffy"]

# An init container copies the plugin out of this one, with cp.
FROM alpine:3.23.4@sha256:5b10f432ef3da1b8d4c7eb6c487f2f5a8f096bc91145e68878dd4a5019afde11 AS shell
COPY --from=files /plugin/vault-plugin-secrets-fuuffy /plugin/LICENSE /plugin/THIRD_PARTY_LICENSES /
USER 65532:65532

FROM scratch AS sandbox
COPY --from=files /sandbox/ /
USER 65532:65532
ENTRYPOINT ["/fuuffy-sandbox"]
