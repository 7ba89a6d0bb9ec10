# syntax=docker/dockerfile:1
# One image for every role: docker build -t errand .
#
# The dependencies are compiled from the manifests alone, in a layer that changes only when those do. The program runs as a
# user without a name, needs no shell, and writes nothing but /tmp and /var/lib/errand.
# Engines' programs are not in it: build on it (FROM errand), or choose another RUNTIME that has what they need.

ARG RUST=docker.io/library/rust:1.95-slim-bookworm
# glibc, libgcc, root certificates; no shell, no package manager.
ARG RUNTIME=gcr.io/distroless/cc-debian12

FROM ${RUST} AS manifests
WORKDIR /src
COPY . .
# The workspace with nothing in it: the result is the same, and what is built on it is kept, while manifests are.
RUN find . -type f ! -name '*.rs' ! -name Cargo.toml ! -name Cargo.lock ! -name rust-toolchain.toml -delete \
    && find . -name '*.rs' -exec truncate --size 0 {} + \
    && for file in $(find . -name main.rs); do echo 'fn main() {}' > "$file"; done

FROM ${RUST} AS build
# SQLite and ring are compiled from C.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY --from=manifests /src .
RUN cargo build --locked --profile dist --package errand-cli
COPY . .
# Cargo goes by times of files: those of the copy may be older than what was built from nothing.
RUN find . -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile dist --package errand-cli \
    && install -D --strip target/dist/errand /image/usr/local/bin/errand \
    && install -d -m 0775 -o 65532 -g 65532 /image/var/lib/errand

FROM ${RUNTIME} AS image
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="errand" \
      org.opencontainers.image.description="A job-queue worker fleet for AI agents" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
WORKDIR /var/lib/errand
USER 65532:65532
# api and relay; health and metrics.
EXPOSE 8080 9090
# The first signal asks for a graceful end.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/errand"]
CMD ["--help"]
