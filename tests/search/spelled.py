"""A tokenizer whose texts are the names of its tokens, so that a phrase can be any sequence of them."""

from unichoir.text.tokenizer import Tokenizer


class SpelledTokenizer(Tokenizer):
    """`▁lo w` is two tokens."""

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(piece, self.unk_id) for piece in text.split()]
