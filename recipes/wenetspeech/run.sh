#!/usr/bin/env bash
# WenetSpeech to character error rates: bash recipes/wenetspeech/run.sh DATA moe-1b|dense-225m, where DATA has
# WenetSpeech.json and audio/. SUBSET: l (10,000 h, the default), m (1,000 h) or s (100 h); SHARDS: folder of the shards.
# Everything else is written to exp/wenetspeech; a run that was stopped goes on where it was. Further arguments go to
# `unichoir train`: --nproc 8. WORKERS: processes that write shards, and that evaluate.
set -euo pipefail
data=${1:?folder of WenetSpeech}
config=${2:?moe-1b or dense-225m}
shift 2
here=$(dirname "$0")
out=exp/wenetspeech
train=train-${SUBSET:-l}
shards=${SHARDS:-$out/shards}/$train
workers=${WORKERS:-2}

unichoir prepare wenetspeech "$data" --output $out/data

# Characters that a thousand hours do not have become <unk>.
vocabulary=$out/data/train-m.jsonl
[ "$train" = train-s ] && vocabulary=$out/data/train-s.jsonl
[ -f $out/tokenizer/units.txt ] || unichoir tokenizer chars "$vocabulary" --output $out/tokenizer

# Segments lie in long recordings, and are cut out of them once. What cannot be read is named and left out, which is no
# reason to stop.
[ -f "$shards/shards.jsonl" ] ||
    unichoir shard "$out/data/$train.jsonl" "$shards" --workers "$workers" || [ -f "$shards/shards.jsonl" ]

[ -d "$out/$config/average" ] ||
    unichoir train "$here/$config.yaml" --train "$shards" --dev $out/data/dev.jsonl --output "$out/$config" "$@"

[ -f "$out/$config/results/results.json" ] ||
    unichoir evaluate "$out/$config/average" $out/data/{dev,test-net,test-meeting}.jsonl \
        --decoding all --chunk-size full,16 --jobs "$workers" --output "$out/$config/results"

[ -d "$out/$config/model" ] || unichoir export "$out/$config/average" "$out/$config/model" --quantize int8
