# A dozen recipes, one line of help each. What needs an `if` is Rust. Run them through ./just.

set positional-arguments
set no-exit-message

# Every program is built by one command, so that cargo resolves features once and builds each library once.
bin := env("CARGO_TARGET_DIR", justfile_directory() / "target") / "debug"

# List the recipes
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# Build the sealed image into out/ (flavour=virt workload=DIR version=V)
image *args: (tools args) keys
    @{{ bin }}/pillar-image build "$@"

# Write the image to a disk: flash DEVICE, or flash --list to see which there are
flash *args: programs
    @{{ bin }}/pillar-image flash "$@"

# Build a USB image that installs the image in out/ (rule='serial=… | model=… | smallest | only' overwrite=yes)
installer *args: tools keys
    @{{ bin }}/pillar-image installer "$@"

# Boot the image under QEMU with a TPM and Secure Boot (up 4: four machines, made a cluster), wait until it answers, show its status
up *args: programs
    @{{ bin }}/pillar-qemu up "$@"
    @{{ bin }}/pillar found --if-several
    @{{ bin }}/pillar status

# Ask the pillar for evidence, verify it here, print every check
attest *args: programs
    @{{ bin }}/pillar attest "$@"

# Follow the machine's console
console *args: programs
    @{{ bin }}/pillar-qemu console "$@"

# Show and disturb the network between the machines: lab show, lab delay p1 p2 200ms, lab --help
lab *args: programs
    @{{ bin }}/pillar-qemu lab "$@"

# Stop the machines
down *args: programs
    @{{ bin }}/pillar-qemu down "$@"

# Image, up, attest, down, with an account of what it proves
demo: image
    @{{ bin }}/demo

# The operator's command line: ./just pillar status, logs, verify …
pillar *args: programs
    @{{ bin }}/pillar "$@"

# Make the development keys (once)
keys: tools
    @{{ bin }}/pillar-keys make

# Make sure of the tools tree (once)
tools *args: programs
    @{{ bin }}/pillar-tools ensure "$@"

# Build twice, as differently as this host allows, and compare every output
repro *args: (tools args) keys
    @{{ bin }}/pillar-image repro "$@"

# Renew the lock files: resolve the Debian packages anew, show what changed (lock tools virt)
lock *args: programs
    @{{ bin }}/pillar-image lock "$@"

[private]
programs:
    @cargo build --workspace --bins --quiet

# Everything that CI runs: format, lints, tests, machines
test: image (image "flavour=metal")
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --quiet -- -D warnings
    cargo test --workspace --no-fail-fast

# Benchmarks beside their peers: boot, image, memory, flash, state, verify, hostile, cluster
bench *args: image
    @{{ bin }}/pillar-bench "$@"

# Hostile bytes for every parser, guided by coverage: fuzz [TARGET] [SECONDS]; without a target each in turn
fuzz *args:
    @cargo run --quiet --package pillar-fuzz --bin pillar-fuzz -- "$@"
