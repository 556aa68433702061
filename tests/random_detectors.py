"""Small open-vocabulary detectors of transformers with random weights, and tokenizers of a few
words: the real ones cannot be downloaded in tests."""

import string
from pathlib import Path

import torch

#: Words that Grounding DINO's tokenizer knows as one token each; others are spelt.
WORDS = ("cat", "dog", "potted", "plant", "sheep")

#: What Grounding DINO's network takes as [CLS], [SEP], "." and "?", by their ids.
SEPARATORS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}


def bert_tokenizer(folder: Path):
    """BERT's, with the published ids of what separates phrases."""
    import transformers

    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    vocabulary = ["[PAD]", "[UNK]", *letters, *WORDS, "[MASK]"]
    vocabulary += [f"[unused{i}]" for i in range(len(vocabulary), 1030)]
    for token, index in SEPARATORS.items():
        assert vocabulary[index].startswith("[unused")
        vocabulary[index] = token
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n")
    return transformers.BertTokenizer(str(path))


def clip_tokenizer():
    """CLIP's, which spells all words."""
    import transformers

    characters = [*string.ascii_lowercase, *string.digits, *".,'-"]
    tokens = ["!", "<|startoftext|>", "<|endoftext|>"]  # an id of 0 at the start is no query
    tokens += characters + [f"{character}</w>" for character in characters]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)


def make_grounding_dino(folder: Path, kind: str):
    """Grounding DINO ("GroundingDino") or MM Grounding DINO ("MMGroundingDino") and its processor,
    which makes the shorter side 80 pixels, or the longer one 120."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        backbone_config=transformers.SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
            image_size=64, out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=transformers.BertConfig(
            vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16,
        ),
        d_model=32, num_queries=20, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=4, decoder_attention_heads=4, max_text_len=40,
    )  # fmt: skip
    processor = transformers.GroundingDinoProcessor(
        transformers.GroundingDinoImageProcessor(size={"shortest_edge": 80, "longest_edge": 120}),
        bert_tokenizer(folder),
    )
    return getattr(transformers, f"{kind}ForObjectDetection")(config), processor


def make_owl(folder: Path, kind: str):
    """OWL-ViT ("OwlViT") or OWLv2 ("Owlv2") and its processor; they see 64 x 64 pixels."""
    import transformers

    tokenizer = clip_tokenizer()
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **{"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16},
            **{"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32},
            **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
        },
        vision_config={
            **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "image_size": 64, "patch_size": 16},
        },
        projection_dim=16,
    )
    image_processor = getattr(transformers, f"{kind}ImageProcessor")(
        size={"height": 64, "width": 64}
    )
    processor = getattr(transformers, f"{kind}Processor")(image_processor, tokenizer)
    return getattr(transformers, f"{kind}ForObjectDetection")(config), processor


MAKERS = {
    "grounding_dino": lambda folder: make_grounding_dino(folder, "GroundingDino"),
    "mm_grounding_dino": lambda folder: make_grounding_dino(folder, "MMGroundingDino"),
    "owlv2": lambda folder: make_owl(folder, "Owlv2"),
    "owlvit": lambda folder: make_owl(folder, "OwlViT"),
}


def make_detector(name: str, folder: Path):
    """A network of :data:`MAKERS`, ready for inference, and its processor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, processor = MAKERS[name](folder)
        for parameter in network.parameters():  # so random that texts count
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval(), processor


def save_detector(name: str, folder: Path) -> str:
    """Write a network of :data:`MAKERS` as transformers saves it; returns the folder."""
    network, processor = make_detector(name, folder)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
