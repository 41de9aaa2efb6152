#!/usr/bin/env bash
# The included model: bash recipes/english/run.sh DATA, where DATA has the folders an4, fsdd, cv1_dev_en, speechocean762 and
# ljspeech_part1. Needs the programs flite and espeak-ng (Debian packages), which read the transcripts aloud.
# Everything is written to exp/english; a run that was stopped goes on where it was. Further arguments go to `unichoir train`:
# --set trainer.num_threads=2.
set -euo pipefail
data=${1:?folder with an4, fsdd, cv1_dev_en, speechocean762, ljspeech_part1}
shift
here=$(dirname "$0")
tools=$here/../tools
out=exp/english
rest=("$data"/{cv1_dev_en,speechocean762,ljspeech_part1}/train.jsonl)
dev=(--dev "$data/an4/dev.jsonl" --dev "$data/fsdd/dev.jsonl" --dev "$data/cv1_dev_en/dev.jsonl")

# 1. Sounds: synthetic speech with phones for transcripts. From the real speech alone CTC learns nothing for hours.
[ -f $out/synthetic/train.jsonl ] || python "$here/synthesize.py" $out/synthetic "$data/an4/train.jsonl" "${rest[@]}"
[ -f $out/dev-phones.jsonl ] || {
    python "$here/phones.py" $out/synthetic/train.jsonl $out/synthetic/phones.jsonl
    python "$tools/combine.py" $out/dev.jsonl "$data"/{an4,cv1_dev_en}/dev.jsonl
    python "$here/phones.py" $out/dev.jsonl $out/dev-phones.jsonl
}
[ -f $out/phones/units.txt ] || unichoir tokenizer chars $out/synthetic/phones.jsonl --output $out/phones
[ -d $out/run-phones/average ] ||
    unichoir train "$here/phones.yaml" --train $out/synthetic/phones.jsonl --dev $out/dev-phones.jsonl \
        --output $out/run-phones "$@"

# 2. Real speech in pieces of words. Small sets are repeated, to be heard as often as large ones.
[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe "$data"/{an4,fsdd}/train.jsonl "${rest[@]}" --vocab-size 160 --output $out/tokenizer
[ -f $out/sentences.jsonl ] ||
    python "$tools/combine.py" $out/sentences.jsonl "$data/an4/train.jsonl:3" "$data/fsdd/train.jsonl:2" "${rest[@]}"
[ -d $out/run-sentences/average ] ||
    unichoir train "$here/sentences.yaml" --train $out/sentences.jsonl "${dev[@]}" --output $out/run-sentences "$@"

# 3. The same with AN4's words joined anew.
[ -f $out/words.jsonl ] || {
    python "$tools/cut_words.py" $out/run-sentences/average "$data/an4/train.jsonl" $out/cut/words.jsonl
    python "$tools/combine.py" $out/words.jsonl \
        "$data/an4/train.jsonl:2" $out/cut/words.jsonl "$data/fsdd/train.jsonl:2" "${rest[@]}"
}
[ -d $out/run-words/average ] ||
    unichoir train "$here/words.yaml" --train $out/words.jsonl "${dev[@]}" --output $out/run-words "$@"

# 4. All of it once more, with the synthetic speech.
[ -f $out/all.jsonl ] ||
    python "$tools/combine.py" $out/all.jsonl "$data/an4/train.jsonl:2" $out/cut/words.jsonl "$data/fsdd/train.jsonl:2" \
        "${rest[@]}" $out/synthetic/train.jsonl
[ -d $out/run-all/average ] ||
    unichoir train "$here/all.yaml" --train $out/all.jsonl "${dev[@]}" --output $out/run-all "$@"

unichoir export $out/run-all/average $out/model --quantize int8
unichoir evaluate $out/model "$data"/{an4,fsdd,cv1_dev_en,speechocean762,ljspeech_part1}/dev.jsonl \
    "$data"/{an4,cv1_dev_en,speechocean762}/test.jsonl --decoding all --chunk-size full,16 --output $out/results
