#!/usr/bin/env bash
# AISHELL-1 from download to character error rates: bash recipes/aishell/run.sh DATA moe|dense, where DATA holds or will
# hold the folder data_aishell. DOWNLOAD=1 fetches the corpus first (15 GB, and as much again for the archive).
# Everything is written to exp/aishell; a run that was stopped goes on where it was. Further arguments go to
# `unichoir train`: --nproc 8. WORKERS: processes that evaluate.
set -euo pipefail
data=${1:?folder of AISHELL-1}
config=${2:?moe or dense}
shift 2
here=$(dirname "$0")
out=exp/aishell

unichoir prepare aishell "$data" --output $out/data ${DOWNLOAD:+--download}

[ -f $out/tokenizer/units.txt ] || unichoir tokenizer chars $out/data/train.jsonl --output $out/tokenizer

[ -d "$out/$config/average" ] ||
    unichoir train "$here/$config.yaml" --train $out/data/train.jsonl --dev $out/data/dev.jsonl \
        --output "$out/$config" "$@"

[ -f "$out/$config/results/results.json" ] ||
    unichoir evaluate "$out/$config/average" $out/data/{dev,test}.jsonl \
        --decoding all --chunk-size full,16 --jobs "${WORKERS:-2}" --output "$out/$config/results"

[ -d "$out/$config/model" ] || unichoir export "$out/$config/average" "$out/$config/model" --quantize int8
