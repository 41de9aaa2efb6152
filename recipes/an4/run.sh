#!/usr/bin/env bash
# AN4 from manifests to word error rates: bash recipes/an4/run.sh DATA, where DATA has train.jsonl, dev.jsonl, test.jsonl.
# Everything is written to exp/an4; a run that was stopped goes on where it was.
set -euo pipefail
data=${1:?folder of the AN4 manifests}
here=$(dirname "$0")
tools=$here/../tools
out=exp/an4

[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe "$data/train.jsonl" --vocab-size 100 --output $out/tokenizer

[ -d $out/run-utterances/average ] ||
    unichoir train "$here/utterances.yaml" --train "$data/train.jsonl" --dev "$data/dev.jsonl" --output $out/run-utterances

# The words, cut out where this first model hears them, are joined anew for the second half.
[ -f $out/train.jsonl ] || {
    python "$tools/cut_words.py" $out/run-utterances/average "$data/train.jsonl" $out/words.jsonl
    python "$tools/combine.py" $out/train.jsonl "$data/train.jsonl:3" $out/words.jsonl
}
[ -d $out/run-words/average ] ||
    unichoir train "$here/words.yaml" --train $out/train.jsonl --dev "$data/dev.jsonl" --output $out/run-words

unichoir evaluate $out/run-words/average "$data/dev.jsonl" "$data/test.jsonl" \
    --decoding all --chunk-size full,16 --output $out/results
