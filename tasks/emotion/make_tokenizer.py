"""Make the small text encoder of a sample that works offline: a WordPiece vocabulary of its texts, and no weights.

python -m tasks.emotion.make_tokenizer hf_datasets/meld configs/tiny_bert
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from system.process import answer_at_once, one_line_errors


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="A data set with a column `text`.")
    parser.add_argument("folder", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    answer_at_once(parse)

from datasets import load_dataset
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertTokenizer

VOCABULARY = 400  # pieces at most
LONGEST = 64  # tokens
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def pieces_of(texts: list[str]) -> list[str]:
    """Return every letter, alone and inside a word, and the words that occur twice or more, the most frequent first.

    The same texts always give the same pieces. The trainer of `tokenizers` breaks ties by chance.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set("".join(words)))
    common = sorted(
        (word for word, count in words.items() if count > 1 and len(word) > 1), key=lambda w: (-words[w], w)
    )
    return [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common][:VOCABULARY]


def make_tokenizer(texts: list[str], folder: Path) -> None:
    """Write the tokenizer and the config of a tiny BERT for some texts."""
    vocabulary = pieces_of(texts)
    tokenizer = BertTokenizer(
        vocab={piece: number for number, piece in enumerate(vocabulary)}, model_max_length=LONGEST
    )
    tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LONGEST,
    ).save_pretrained(folder)


def main(argv: list[str]) -> None:
    """Read the texts of a sample, write their tokenizer."""
    arguments = parse(argv)
    texts = load_dataset(arguments.dataset, "sample", split="train")["text"]
    make_tokenizer([text for text in texts if text], arguments.folder)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
