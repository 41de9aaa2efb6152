#!/usr/bin/env bash
# The included model, from Whisper to a model directory: bash recipes/english/run.sh WHISPER DATA [MODEL].
# WHISPER: a checkpoint of Whisper base (docs/training/whisper.md lists the formats). DATA: a folder with the sets named below and
# text/. MODEL: the directory to write, exp/english/model unless you name one. Everything else is written to exp/english.
# A step whose result is there is left out, and a training that was stopped goes on where it was. Arguments after the first
# option go to all trainings: --set trainer.num_threads=4. Variables: VOCAB, pieces of the vocabulary; IMPORT, options of
# `unichoir import-whisper`, such as "--decoder-blocks 2", which the configurations must then say, too; WRITTEN_HOURS, of the
# training of marks and case.
set -euo pipefail
whisper=${1:?checkpoint of Whisper base}
data=${2:?folder with librispeech_part, cv1_dev_en, ..., text}
shift 2
out=exp/english
model=$out/model
[[ ${1:---} == -* ]] || { model=$1; shift; }
here=$(dirname "$0")

# 1. Manifests and pieces of words. Small sets are heard twice.
train=("$data"/{librispeech_part,cv1_dev_en,speechocean762,ljspeech_part1,african_storybook_en,kathleen_arctic}/train.jsonl)
train+=("$data"/{asterisk_prompts,picovoice_coffee,picovoice_wakewords,speech_commands_3w}/train.jsonl "$data/an4/train.jsonl:2")
[ -f $out/train.jsonl ] ||
    python "$here/../tools/combine.py" --words $out/train.jsonl "${train[@]}" "$data"/fsdd/train.jsonl:2 "$data"/ovos_words/train.jsonl
[ -f $out/train-again.jsonl ] ||
    python "$here/../tools/combine.py" --words $out/train-again.jsonl "${train[@]}" "$data"/{fsdd/train.jsonl:6,ovos_words/train.jsonl:2}
[ -f $out/dev.jsonl ] || python "$here/../tools/combine.py" --words $out/dev.jsonl "$data"/{librispeech_part,cv1_dev_en}/dev.jsonl
[ -f $out/tokenizer/bpe.model ] ||
    unichoir tokenizer train-bpe $out/train.jsonl --vocab-size "${VOCAB:-500}" --output $out/tokenizer

# 2. Whisper under new blocks; its encoder stays as it is at first. SHA256SUMS is what a checkpoint ends with.
[ -f $out/whisper/SHA256SUMS ] || {
    rm -rf $out/whisper
    # shellcheck disable=SC2086 - several options
    unichoir import-whisper "$whisper" $out/whisper --tokenizer $out/tokenizer --reverse-blocks 1 ${IMPORT:-}
}
[ -d $out/run-top/average ] ||
    unichoir train "$here/top.yaml" --train $out/train.jsonl --dev $out/dev.jsonl --output $out/run-top "$@"

# 3. Each layer divided into experts; then everything learns, and the encoder learns chunks.
[ -f $out/split/SHA256SUMS ] || {
    rm -rf $out/split
    unichoir upcycle $out/run-top/average $out/split --split --on $out/train.jsonl --experts 4 --top-k 2 \
        --shared-share 0.75 --utterances 150
}
[ -d $out/run-all/average ] ||
    unichoir train "$here/all.yaml" --train $out/train.jsonl --dev $out/dev.jsonl --output $out/run-all "$@"
[ -d $out/run-again/average ] ||
    unichoir train "$here/again.yaml" --train $out/train-again.jsonl --dev $out/dev.jsonl --output $out/run-again "$@"
[ -f "$model/SHA256SUMS" ] || unichoir export $out/run-again/average "$model" --quantize int8 \
    --attention-beam 4 --ctc-weight 0.3 --reencode --trail-frames 30

# 4. Marks and case.
text=("$data"/text/{english_sentences.txt.xz,common_voice_sentences_en.txt})
[ -f "$model/punctuation.onnx" ] || {
    python "$here/written.py" train "${text[@]}" --output $out/written --hours "${WRITTEN_HOURS:-0.185}"
    python "$here/written.py" export $out/written --model "$model"
}

# 5. The language model, and how much it counts.
dev=("$data"/{librispeech_part,cv1_dev_en,speechocean762,an4,fsdd,ljspeech_part1}/dev.jsonl)
[ -f $out/lm/lm.bin ] || {
    python "$here/lm_text.py" "$data" $out/lm
    unichoir lm train $out/lm/general.txt --mix 0.2:$out/lm/sentences.txt --mix 0.03:$out/lm/spelled.txt \
        --mix 0.03:$out/lm/lessons.txt --mix 0.03:$out/lm/prompts.txt --min-count 2 --prune 6e-7 --output $out/lm/lm.bin
}
[ -f "$model/lm.bin" ] || unichoir lm add "$model" $out/lm/lm.bin
grep -qs attention_rescoring "$model/lm.bin.json" || unichoir lm tune "$model" "${dev[@]}" --jobs 2

# 6. Error rates, with the language model and without.
test=("$data"/{librispeech_part,cv1_dev_en,speechocean762,an4}/test.jsonl)
for lm in default none; do
    [ -f $out/results-$lm/results.json ] ||
        unichoir evaluate "$model" "${dev[@]}" "${test[@]}" --lm $lm --chunk-size full,16 \
            --decoding ctc_greedy_search,ctc_prefix_beam_search,attention_rescoring --output $out/results-$lm
done
