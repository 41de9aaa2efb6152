#!/usr/bin/env bash
# The included model: bash recipes/english/run.sh DATA, where DATA has a folder of manifests for each corpus named below.
# Everything is written to exp/english; a run that was stopped goes on where it was.
set -euo pipefail
data=${1:?folder with an4, cv1_dev_en, speechocean762, ljspeech_part1 and fsdd}
here=$(dirname "$0")
out=exp/english
corpora="an4 cv1_dev_en speechocean762 ljspeech_part1 fsdd"

mkdir -p $out
# shellcheck disable=SC2086
[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe $(printf "$data/%s/train.jsonl " $corpora) --vocab-size 256 --output $out/tokenizer
# The small sets are repeated: they are what the model should know best.
python "$here/combine.py" $out/train.jsonl "$data/an4/train.jsonl:4" "$data/fsdd/train.jsonl:3" \
    "$data/cv1_dev_en/train.jsonl" "$data/speechocean762/train.jsonl" "$data/ljspeech_part1/train.jsonl"
# shellcheck disable=SC2046
[ -d $out/run/average ] ||
    unichoir train "$here/config.yaml" --train $out/train.jsonl \
        $(printf -- "--dev $data/%s/dev.jsonl " $corpora) --output $out/run
unichoir evaluate $out/run/average "$data"/{an4,cv1_dev_en,speechocean762,ljspeech_part1,fsdd}/dev.jsonl \
    "$data"/{an4,cv1_dev_en,speechocean762}/test.jsonl --decoding all --chunk-size full,16 --output $out/results
unichoir export $out/run/average $out/model --weights float16
