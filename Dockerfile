# syntax=docker/dockerfile:1
# The host: one binary, no shell needed, a user without rights.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The image brings OpenSSL and zlib for librdkafka. rust-toolchain.toml stays outside (.dockerignore): it would fetch again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package helix-host --bin helix \
    && cp target/release/helix /helix

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 65532 helix \
    && useradd --uid 65532 --gid helix --no-create-home --home-dir /var/lib/helix --shell /usr/sbin/nologin helix \
    && install --directory --owner=helix --group=helix --mode=0700 /var/lib/helix \
    && install --directory /plugins /etc/helix
COPY --from=build /helix /usr/local/bin/helix
COPY config /etc/helix
ENV HELIX__HOST__STATE_DIR=/var/lib/helix \
    HELIX__HOST__PLUGINS_DIR=/plugins
WORKDIR /var/lib/helix
USER 65532:65532
VOLUME /var/lib/helix
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/helix"]
CMD ["run", "--config", "/etc/helix/helix.toml"]
