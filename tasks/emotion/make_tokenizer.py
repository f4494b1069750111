"""Write a tiny text encoder for a sample, so that the sample can be used offline.

It has a WordPiece vocabulary made from the texts of the sample, a config, and no weights.

python -m tasks.emotion.make_tokenizer hf_datasets/meld configs/tiny_bert
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from system.process import one_line_errors, parse_before_imports


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="Data set with a column `text`.")
    parser.add_argument("folder", type=Path, help="Folder to write the tokenizer and the config to.")
    return parser.parse_args(argv)


# Before the slow imports below, so that --help and mistakes are answered at once.
if __name__ == "__main__":
    parse_before_imports(parse)

from datasets import load_dataset
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertTokenizer

VOCABULARY_SIZE = 400  # pieces, at most
MAX_TOKENS = 64  # per text
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_vocabulary(texts: list[str]) -> list[str]:
    """Return the special tokens, all letters, and the words that occur more than once, most frequent first."""
    # Not the trainer of `tokenizers`: it breaks ties at random, so the same texts would give different vocabularies.
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set("".join(words)))
    common = sorted(
        (word for word, count in words.items() if count > 1 and len(word) > 1), key=lambda w: (-words[w], w)
    )
    # All letters, at the start ("a") and inside ("##a") of a word, so that no word becomes [UNK].
    return [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *common][:VOCABULARY_SIZE]


def make_tokenizer(texts: list[str], folder: Path) -> None:
    """Write the tokenizer and the config of a tiny BERT whose vocabulary covers the texts."""
    vocabulary = build_vocabulary(texts)
    tokenizer = BertTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)}, model_max_length=MAX_TOKENS
    )
    tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
    ).save_pretrained(folder)


def main(argv: list[str]) -> None:
    """Read the texts of a sample, and write the encoder for them."""
    arguments = parse(argv)
    texts = load_dataset(arguments.dataset, "sample", split="train")["text"]
    make_tokenizer([text for text in texts if text], arguments.folder)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
