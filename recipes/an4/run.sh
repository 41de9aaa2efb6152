#!/usr/bin/env bash
# AN4 from manifests to word error rates: bash recipes/an4/run.sh DATA, where DATA has train.jsonl, dev.jsonl, test.jsonl.
# Everything is written to exp/an4; a run that was stopped goes on where it was. Further arguments go to `unichoir train`:
# --set trainer.num_threads=2.
set -euo pipefail
data=${1:?folder of the AN4 manifests}
shift
here=$(dirname "$0")
tools=$here/../tools
out=exp/an4

[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe "$data/train.jsonl" --vocab-size 100 --output $out/tokenizer

[ -d $out/run-utterances/average ] ||
    unichoir train "$here/utterances.yaml" --train "$data/train.jsonl" --dev "$data/dev.jsonl" --output $out/run-utterances "$@"

# Then, twice: the words, cut out where the model hears them, are joined anew, and the model learns from them, too.
model=$out/run-utterances/average
for round in 1 2; do
    words=$out/words-$round
    [ -f $words/train.jsonl ] || {
        python "$tools/cut_words.py" $model "$data/train.jsonl" $words/words.jsonl
        python "$tools/combine.py" $words/train.jsonl "$data/train.jsonl:3" $words/words.jsonl
    }
    [ -d $words/run/average ] ||
        unichoir train "$here/words.yaml" --train $words/train.jsonl --dev "$data/dev.jsonl" --output $words/run \
            --set init=$model --set trainer.seed=$round "$@"
    model=$words/run/average
done

unichoir evaluate $model "$data/dev.jsonl" "$data/test.jsonl" \
    --decoding all --chunk-size full,16 --ctc-weight 4 --output $out/results
