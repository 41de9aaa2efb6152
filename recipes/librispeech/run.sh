#!/usr/bin/env bash
# LibriSpeech from download to word error rates: bash recipes/librispeech/run.sh DATA moe|dense, where DATA holds or will
# hold the folder LibriSpeech. DOWNLOAD=1 fetches the corpus first (60 GB, and as much again for the archives).
# Everything is written to exp/librispeech; a run that was stopped goes on where it was. Further arguments go to
# `unichoir train`: --nproc 8. VOCAB: tokens; WORKERS: processes that write shards, and that evaluate.
set -euo pipefail
data=${1:?folder of LibriSpeech}
config=${2:?moe or dense}
shift 2
here=$(dirname "$0")
out=exp/librispeech
workers=${WORKERS:-2}

unichoir prepare librispeech "$data" --output $out/data ${DOWNLOAD:+--download}

[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe $out/data/train.jsonl --vocab-size "${VOCAB:-5000}" --output $out/tokenizer

# Recordings that cannot be read are named and left out, which is no reason to stop.
[ -f $out/shards/shards.jsonl ] ||
    unichoir shard $out/data/train.jsonl $out/shards --workers "$workers" || [ -f $out/shards/shards.jsonl ]

[ -d "$out/$config/average" ] ||
    unichoir train "$here/$config.yaml" --train $out/shards --dev $out/data/dev.jsonl --output "$out/$config" "$@"

[ -f "$out/$config/results/results.json" ] ||
    unichoir evaluate "$out/$config/average" $out/data/{dev,test}-*.jsonl \
        --decoding all --chunk-size full,16 --jobs "$workers" --output "$out/$config/results"

[ -d "$out/$config/model" ] || unichoir export "$out/$config/average" "$out/$config/model" --quantize int8
