"""Make a policy directory of a GGUF file (llama.cpp, ollama), its weights dequantised.

--out gets config.json, safetensors, tokenizer and chat template from the file, for
every command here and for transformers. Architectures: llama, mistral, qwen2, qwen3,
gemma3. Needs the gguf package (pip install 'gru_mem_jax[gguf]'). The directory's path
goes to stdout.
"""

import argparse
import shlex

from gru_mem_jax.cli import arguments, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    add("file", type=arguments.path, metavar="FILE.gguf", help="what is read")
    add(
        "--out",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="folder to create",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the stored weights; default float32, which holds every dequantised "
        "value exactly",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    arguments.check_folder("--out", args.out, new=True)
    from gru_mem_jax.policy.gguf import import_gguf

    with terminal.progress_bar() as bar:
        task = bar.add_task("tensors", total=None)
        found = import_gguf(
            args.file,
            args.out,
            dtype=args.dtype,
            on_tensor=lambda done, count: bar.update(task, completed=done, total=count),
        )
    kinds = ", ".join(found.quantisations)
    terminal.note(
        f"imported {found.family}, {found.parameters / 1e6:.1f}M weights from {kinds}"
    )
    out = shlex.quote(terminal.plain_line(str(args.out)))
    if found.has_template:
        terminal.note(
            f"next: gru-mem ask --policy {out} --question TEXT --context FILE "
            "--format constrained"
        )
    else:
        terminal.note(
            "the file has no chat template, which questions are asked in: put a "
            f"chat_template.jinja into {out}, then gru-mem ask --policy {out}"
        )
    print(args.out)
    return 0
