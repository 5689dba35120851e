# A dozen recipes, one line of help each. What needs an `if` is Rust. Run them through ./just.

set positional-arguments

cargo := "cargo --quiet"

# List the recipes
default:
    @just --justfile {{ justfile() }} --list --unsorted

# Build the sealed image into out/ (flavour=virt workload=DIR version=V)
image *args: tools keys
    @{{ cargo }} run -p pillar-image -- build "$@"

# Boot the image under QEMU with a TPM and Secure Boot, wait until it answers, show its status
up *args:
    @{{ cargo }} run -p pillar-qemu -- up "$@"
    @{{ cargo }} run -p pillar -- status

# Ask the pillar for evidence, verify it here, print every check
attest *args:
    @{{ cargo }} run -p pillar -- attest "$@"

# Follow the machine's console
console *args:
    @{{ cargo }} run -p pillar-qemu -- console "$@"

# Stop the machines
down *args:
    @{{ cargo }} run -p pillar-qemu -- down "$@"

# Image, up, attest, down, with an account of what it proves
demo: image
    @{{ cargo }} run -p pillar-e2e --bin demo

# The operator's command line: ./just pillar status, logs, verify …
pillar *args:
    @{{ cargo }} run -p pillar -- "$@"

# Make the development keys (once)
keys: tools
    @{{ cargo }} run -p pillar-keys -- make

# Make sure of the tools tree (once)
tools:
    @{{ cargo }} run -p pillar-tools -- ensure

# Everything that CI runs: format, lints, tests, machines
test: image
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --quiet -- -D warnings
    cargo test --workspace --quiet

# Benchmarks beside their peers (bench boot)
bench *args: image
    @{{ cargo }} run -p pillar-bench -- "$@"
