#!/usr/bin/env bash
# AN4 from manifests to word error rates: bash recipes/an4/run.sh DATA, where DATA has train.jsonl, dev.jsonl, test.jsonl.
# Everything is written to exp/an4; a run that was stopped goes on where it was.
set -euo pipefail
data=${1:?folder of the AN4 manifests}
here=$(dirname "$0")
out=exp/an4

[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe "$data/train.jsonl" --vocab-size 100 --output $out/tokenizer
[ -d $out/run/average ] ||
    unichoir train "$here/config.yaml" --train "$data/train.jsonl" --dev "$data/dev.jsonl" --output $out/run
unichoir evaluate $out/run/average "$data/dev.jsonl" "$data/test.jsonl" \
    --decoding all --chunk-size full,16 --output $out/results
