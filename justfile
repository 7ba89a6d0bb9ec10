# What there is to do. `just` is a convenience: each recipe is one plain command.

# Lists the recipes.
default:
    @just --list

# Runs Errand on this machine: API, relay and worker in one process.
dev *arguments:
    cargo run --release -- dev {{arguments}}

# Passes every test; installs or names what they need.
test *arguments:
    sh tests/run {{arguments}}

# All that must hold before a change is taken.
check:
    .ci/run

# Checks the chart, the image and their documents; installs its tools into a cache.
chart *arguments:
    helm/tests/run {{arguments}}

# Measures; see --help for what.
bench *arguments:
    cargo run --release -p errand-benches -- {{arguments}}
