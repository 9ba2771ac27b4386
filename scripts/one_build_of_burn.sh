#!/usr/bin/env bash
# One build of Burn serves whatever is run here: fails where two programs ask for different features
# of Burn, or of a package below it. `workspace-hack` is where the missing ones belong.
set -euo pipefail
cd "$(dirname "$0")/.."

tree() { cargo tree --quiet --locked --edges normal --prefix none "$@" | sed 's/ (\*)$//' | sort -u; }
mkdir -p target
tree --package burn --format '{p}' >target/below_burn

# Prints the packages below Burn of which $1 and $2 ask for different features.
others() {
    awk -F'|' 'FILENAME == ARGV[1] { below[$1]; next } FILENAME == ARGV[2] { asked[$1] = $2; next }
        $1 in below && $1 in asked && asked[$1] != $2 { print "  " $1 ": " $2 "; other: " asked[$1]; found = 1 }
        END { exit found }' target/below_burn <(tree --package "$2" --format '{p}|{f}') <(tree --package "$1" --format '{p}|{f}')
}
for program in policy-loss-cli train-language-model training-loop evaluate-rollout; do
    echo "$program and train-policy"
    others "$program" train-policy
done
