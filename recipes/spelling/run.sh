#!/usr/bin/env bash
# The included model: bash recipes/spelling/run.sh DATA, where DATA has the folders an4 and fsdd, after recipes/an4/run.sh.
# Everything is written to exp/spelling; a run that was stopped goes on where it was.
set -euo pipefail
data=${1:?folder with an4 and fsdd}
here=$(dirname "$0")
out=exp/spelling

python "$here/../tools/combine.py" $out/train.jsonl "$data/an4/train.jsonl" "$data/fsdd/train.jsonl"
[ -d $out/run/average ] ||
    unichoir train "$here/config.yaml" --train $out/train.jsonl \
        --dev "$data/an4/dev.jsonl" --dev "$data/fsdd/dev.jsonl" --output $out/run
unichoir export $out/run/average $out/model --weights float16
unichoir evaluate $out/model "$data"/{an4,fsdd}/dev.jsonl "$data/an4/test.jsonl" \
    --decoding all --chunk-size full,16 --output $out/results
