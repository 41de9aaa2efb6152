#!/usr/bin/env bash
# English, Arabic and Mandarin in one model with language tokens: bash recipes/multilingual/run.sh DATA, where DATA has the
# folders an4, fsdd, arabic_speech_commands and audio_cmn_words. Everything is written to exp/multilingual; a run that was
# stopped goes on where it was. Further arguments go to `unichoir train`: --set trainer.num_threads=2.
set -euo pipefail
data=${1:?folder with an4, fsdd, arabic_speech_commands, audio_cmn_words}
shift
here=$(dirname "$0")
tools=$here/../tools
out=exp/multilingual
folders=("$data"/{an4,fsdd,arabic_speech_commands,audio_cmn_words})

[ -f $out/train.jsonl ] || {
    python "$tools/combine.py" $out/test.jsonl "$data"/{an4,arabic_speech_commands,audio_cmn_words}/test.jsonl
    python "$tools/combine.py" $out/dev.jsonl "${folders[@]/%//dev.jsonl}"
    python "$tools/combine.py" $out/train.jsonl "${folders[@]/%//train.jsonl}"
}
# Pieces of English and Arabic words, the Mandarin characters that occur twice, and bytes for all others.
[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe $out/train.jsonl --vocab-size "${VOCAB:-1120}" --min-count 2 --languages en,ar,zh \
        --byte-fallback --output $out/tokenizer

# Single words teach CTC nothing as long as it knows no sounds: first the longer utterances of AN4, then everything.
[ -d $out/run-sounds/average ] ||
    unichoir train "$here/moe.yaml" --train "$data/an4/train.jsonl" --dev "$data/an4/dev.jsonl" --output $out/run-sounds \
        --set trainer.max_epochs=40 --set optim.final_fraction=0.3 "$@"
[ -d $out/run/average ] ||
    unichoir train "$here/moe.yaml" --train $out/train.jsonl --dev $out/dev.jsonl --output $out/run \
        --set init=$out/run-sounds/average "$@"

# Error rates of each language, and which experts serve it: results.md and experts.svg.
unichoir evaluate $out/run/average $out/dev.jsonl $out/test.jsonl --decoding ctc_greedy_search,attention_rescoring \
    --chunk-size full,16 --expert-load --output $out/results
# How often the language is recognised, and what it helps to give it.
python "$here/languages.py" $out/run/average $out/dev.jsonl $out/test.jsonl > $out/results/languages.md
