"""Policy directories from a stranger: each is a way to run code, to read what is not
ours, to hang, or to take the machine's memory. No jax here.

An attack is a function that spoils a good directory (see `spoil`), and a part of the
one-line error that must come of it.
"""

import json
import os

import numpy as np
from safetensors.numpy import load_file, save_file
from spoil import (
    CONFIG,
    INDEX,
    SHARDS,
    WEIGHTS,
    Spoiler,
    config,
    config_text,
    cut,
    entry,
    header,
    index,
    instead,
    make_socket,
    pickle_only,
    points_to,
    rename,
    shard,
    sparse,
    tensors,
)

Attack = tuple[Spoiler, str]

# -- the attacks ---------------------------------------------------------------------

_UP = "model.layers.1.mlp.up_proj.weight"

PICKLES: dict[str, Attack] = {  # C1
    name: (
        pickle_only(name),
        f"{name} holds pickled weights.*convert to safetensors",
    )
    for name in ("pytorch_model.bin", "consolidated.00.pth", "model.pt", "a.ckpt")
}
PICKLES["nothing"] = (
    lambda directory: (directory / WEIGHTS).unlink(),
    "no model.safetensors and no",
)

CONFIGS: dict[str, Attack] = {  # C2
    "quantised": (
        config(quantization_config={"quant_method": "awq"}),
        r"config\.json: quantised weights \(awq\)",
    ),
    "quantised_oddly": (config(quantization_config=[4]), "quantised weights"),
    "unknown": (
        config(architectures=["EvilForCausalLM"]),
        "unknown architecture",
    ),
    "code_for_an_unknown_type": (
        config(
            architectures=None,
            model_type="evil",
            auto_map={"AutoConfig": "evil.Evil"},
        ),
        "unknown model_type 'evil'",
    ),
    "another_family": (
        config(architectures=["LlamaForCausalLM"], model_type="llama"),
        "self_attn.[qkv]_proj.bias' is not part of a llama policy",
    ),
    "endless_name": (config(model_type="x" * 500_000), "model_type 'x{60}'"),
    "missing": (lambda d: (d / "config.json").unlink(), r"config\.json: missing"),
}

NAMES: dict[str, Attack] = {  # C3
    repr(name): (points_to(name), r"index\.json: file name .* is refused")
    for name in (
        "../model.safetensors",
        "/etc/hosts.safetensors",
        "a/model.safetensors",
        "..\\model.safetensors",
        "model.safetensors\x00",
        "model.safetensors\n",
        "model.bin",
        "mоdel.safetensors",  # the first o is Cyrillic
        "~/model.safetensors",
        "$HOME.safetensors",
        "",
        7,
        None,
        ["model.safetensors"],
        {"a": 1},
    )
}

SPECIAL_FILES: dict[str, Attack] = {  # C4
    f"{name}_{kind}": (instead(name, make), f"{name}: {message}")
    for name in ("config.json", WEIGHTS)
    for kind, make, message in (
        ("fifo", os.mkfifo, "expected a regular file, got a FIFO"),
        ("directory", os.mkdir, "expected a regular file, got a directory"),
        ("socket", make_socket, "expected a regular file, got a socket"),
        ("zero", lambda p: p.symlink_to("/dev/zero"), ".*got a device"),
        ("tty", lambda p: p.symlink_to("/dev/tty"), ".*got a device"),
        ("loop", lambda p: p.symlink_to(p.name), ".*symbolic links"),
        ("dangling", lambda p: p.symlink_to("gone"), "the link leads nowhere"),
    )
} | {
    "shard_fifo": (
        lambda d: (
            index(lambda m: None)(d),
            instead(SHARDS[1], os.mkfifo)(d),
        ),
        "expected a regular file, got a FIFO",
    ),
    "index_fifo": (
        lambda d: (shard(d), os.mkfifo(d / INDEX)),
        "index.json: expected a regular file, got a FIFO",
    ),
}

LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    f"oid sha256:{'4d7a' * 16}\nsize 988097824\n"
)
_ONE = {"a": entry([1], 0, 4)}
HEADERS: dict[str, Attack] = {  # C5
    "empty": (cut(WEIGHTS, lambda size: 0), "not a safetensors file, or cut"),
    "seven_bytes": (cut(WEIGHTS, lambda size: 7), "not a safetensors file"),
    "lfs_pointer": (
        lambda d: (d / WEIGHTS).write_text(LFS_POINTER),
        "model.safetensors: a Git LFS pointer, .*`git lfs pull`",
    ),
    "lfs_pointer_for_a_shard": (
        lambda d: (
            index(lambda m: None)(d),
            (d / SHARDS[1]).write_text(LFS_POINTER),
        ),
        f"{SHARDS[1]}: a Git LFS pointer, .*`git lfs pull`",
    ),
    "cut_in_header": (cut(WEIGHTS, lambda size: 100), "not a safetensors file"),
    "cut_in_data": (
        cut(WEIGHTS, lambda size: size - 1),
        "not a whole safetensors",
    ),
    "longer": (
        lambda d: os.truncate(d / WEIGHTS, (d / WEIGHTS).stat().st_size + 1),
        "not a whole safetensors",
    ),
    "claims_2_63": (header(_ONE, b"1234", 2**63), "header would have 922337"),
    "claims_17_mb": (
        lambda d: (
            header(_ONE, b"1234", 17 << 20)(d),
            os.truncate(d / WEIGHTS, 18 << 20),
        ),
        "at most 16777216 are read",
    ),
    "no_header": (header(b"", b"", 0), "not a whole safetensors"),
    "not_json": (header(b"{" * 64), "not a whole safetensors"),
    "not_utf8": (header(b'{"\xff": 1}'), "not a whole safetensors"),
    "deep": (header(b"[" * 1_000_000), "not a whole safetensors"),
    "overlap": (
        header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"x" * 12),
        "not a whole safetensors",
    ),
    "gap": (
        header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"x" * 12),
        "not a whole safetensors",
    ),
    "backwards": (header({"a": entry([1], 4, 0)}, b"x" * 4), "not a whole"),
    "negative": (header({"a": entry([-1], 0, 4)}, b"x" * 4), "not a whole"),
    "overflow": (
        header({"a": entry([2**62, 2**62], 0, 4)}, b"x" * 4),
        "not a whole safetensors",
    ),
    "wraps_to_zero": (
        header({"a": entry([2**32, 2**32], 0, 0)}),
        "not a whole safetensors",
    ),
    "unknown_dtype": (
        header({"a": entry([1], 0, 4, "PY")}, b"x" * 4),
        "not a whole",
    ),
    "doubled_names": (
        header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"x" * 4,
        ),
        "model.embed_tokens.weight' of shape .48, 16. is missing|not a whole",
    ),
    "two_hundred_thousand_names": (
        header({f"t{i}": entry([0], 0, 0) for i in range(200_000)}),
        "model.embed_tokens.weight' of shape .48, 16. is missing",
    ),
    "a_name_of_a_megabyte": (
        header({"n" * 1_000_000: entry([0], 0, 0)}),
        "is missing.*'n{200}' is there, unexpected",
    ),
    "two_holes_to_compare": (
        lambda d: sparse(d, head=True),
        "the weights take 5[0-9]{2}.* GB",
    ),
    "a_hole_of_512_gb": (sparse, "the weights take 5[0-9]{2}.* GB"),
}

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_VALUES = {
    "10_9": 10**9,
    "2_40": 2**40,
    "zero": 0,
    "minus_one": -1,
    "fraction": 1.5,
    "text": "8",
    "nan": float("nan"),
    "infinity": float("inf"),
    "list": [8],
    "true": True,
}
NUMBERS: dict[str, Attack] = (
    {  # C6
        f"{name}_{kind}": (config(**{name: value}), rf"config\.json: {name}")
        for name in _SIZES
        for kind, value in _VALUES.items()
        # A billion positions are no memory; the limit is an int32.
        if not (name == "max_position_embeddings" and kind == "10_9")
    }
    | {
        "layers_beyond_the_file": (
            config(num_hidden_layers=1000),
            r"'model\.layers\.2\.[a-z_.]+' .* is missing and [0-9]+ others",
        ),
        "layers_fewer_than_the_file": (
            config(num_hidden_layers=1),
            r"'model\.layers\.1\.[a-z_.]+' is not part of a qwen2 policy",
        ),
        "vocabulary_beyond_the_file": (
            config(vocab_size=2**20),
            r"embed_tokens.weight': expected shape \(1048576, 16\) .* got \(48, 16\)",
        ),
        "width_beyond_the_file": (config(hidden_size=2**13), "expected shape"),
        "heads_do_not_divide": (
            config(num_attention_heads=3),
            "num_attention_heads",
        ),
        "odd_head": (config(head_dim=3), "head_dim"),
        "head_of_2_40": (config(head_dim=2**40), "head_dim"),
        "tied_to_text": (
            config(tie_word_embeddings="yes"),
            "tie_word_embeddings",
        ),
        "theta_nan": (
            config(rope_theta=float("nan")),
            "rope_theta must be finite",
        ),
        "eps_negative": (config(rms_norm_eps=-1.0), "rms_norm_eps"),
        "a_million_layer_types": (
            config(layer_types=["full_attention"] * 50_000),
            "layer_types must have num_hidden_layers = 2 entries, got 50000",
        ),
        "number_of_5000_digits": (
            config_text('{"vocab_size": ' + "9" * 5000 + "}"),
            r"config\.json: not JSON",
        ),
        "number_of_4000_digits": (
            config_text(json.dumps(CONFIG)[:-1] + ', "head_dim": ' + "9" * 4000 + "}"),
            "head_dim must be at most 4096, got an integer of 13288 bits",
        ),
        "too_large": (
            config_text(" " * (2 << 20)),
            "2097152 bytes, at most 1048576",
        ),
        "deep": (config_text("[" * 500_000), "JSON nested too deeply"),
        "not_utf8": (config_text(b"\xff\xfe{}"), "not UTF-8 text, at byte 0"),
        "doubled": (config_text('{"a": 1, "a": 1}'), "name 'a' occurs twice"),
        "a_list": (config_text("[]"), "expected a JSON object, got list"),
        "empty": (config_text(""), "not JSON"),
    }
)

TENSORS: dict[str, Attack] = {  # C7, C8, and files that were cut or mixed up
    "missing": (
        tensors(lambda t: t.pop(_UP)),
        f"'{_UP}' of shape .24, 16. is missing",
    ),
    "renamed": (
        tensors(lambda t: rename(t, _UP, "model.evil")),
        f"'{_UP}' of shape .24, 16. is missing; 'model.evil' is there, unexpected",
    ),
    "extra": (
        tensors(lambda t: t.update({"evil": np.ones(1, np.float32)})),
        "model.safetensors: tensor 'evil' is not part of a qwen2 policy",
    ),
    "transposed": (
        tensors(lambda t: t.update({_UP: np.ones((16, 24), np.float32)})),
        rf"'{_UP}': expected shape \(24, 16\) by config.json, got \(16, 24\)",
    ),
    "flat": (
        tensors(lambda t: t.update({_UP: np.ones(24 * 16, np.float32)})),
        r"expected shape \(24, 16\) by config.json, got \(384,\)",
    ),
} | {
    f"stored_as_{np.dtype(dtype).name}": (
        tensors(lambda t, dtype=dtype: t.update({_UP: t[_UP].astype(dtype)})),
        f"'{_UP}': expected one of F32, F16, BF16, got",
    )
    for dtype in (np.int8, np.uint8, np.int32, np.int64, np.float64, np.bool_)
}
INDICES: dict[str, Attack] = {
    "in_two_shards": (
        lambda d: (
            index(lambda m: None)(d),
            save_file(
                load_file(d / SHARDS[0]) | load_file(d / SHARDS[1]), d / SHARDS[1]
            ),
        ),
        f"tensor '.*' is in {SHARDS[0]} and in {SHARDS[1]}",
    ),
    "in_the_index_and_in_no_shard": (
        index(lambda m: m.update({"ghost": SHARDS[0]})),
        f"{SHARDS[0]}: tensor 'ghost' is missing, .*index.json says that it is there",
    ),
    "in_another_shard": (
        index(lambda m: m.update({"model.norm.weight": SHARDS[0]})),
        f"{SHARDS[0]}: tensor 'model.norm.weight' is missing",
    ),
    "shard_missing": (
        lambda d: (index(lambda m: None)(d), (d / SHARDS[1]).unlink()),
        f"{SHARDS[1]}: missing, .*index.json names it",
    ),
    "shard_cut": (
        lambda d: (
            index(lambda m: None)(d),
            cut(SHARDS[1], lambda size: size - 8)(d),
        ),
        f"{SHARDS[1]}: not a whole safetensors file.*fetch it again",
    ),
    "shard_extra": (
        lambda d: (
            index(lambda m: None)(d),
            save_file(
                load_file(d / SHARDS[1]) | {"evil": np.ones(1, np.float32)},
                d / SHARDS[1],
            ),
        ),
        f"{SHARDS[1]}: tensor 'evil' is not part",
    ),
    "no_map": (index(lambda m: []), "expected an object 'weight_map'"),
    "empty_map": (index(lambda m: {}), "expected an object 'weight_map'"),
    "text_for_a_map": (index(lambda m: "x"), "expected an object 'weight_map'"),
    "two_thousand_shards": (
        index(lambda m: {f"t{i}": f"m{i}.safetensors" for i in range(2000)}),
        "2000 files, at most 1024 are read",
    ),
    "index_cut": (
        lambda d: (
            index(lambda m: None)(d),
            cut(INDEX, lambda size: size // 2)(d),
        ),
        "index.json: not JSON",
    ),
    "index_too_large": (
        lambda d: (index(lambda m: None)(d), os.truncate(d / INDEX, 5 << 20)),
        "5242880 bytes, at most 4194304",
    ),
}

ATTACKS: dict[str, Attack] = {
    f"{group}-{name}": attack
    for group, attacks in {
        "C1": PICKLES,
        "C2": CONFIGS,
        "C3": NAMES,
        "C4": SPECIAL_FILES,
        "C5": HEADERS,
        "C6": NUMBERS,
        "C7": TENSORS | INDICES,
    }.items()
    for name, attack in attacks.items()
}
