"""`predict.py` of an exported folder: a short program that needs transformers, and peft for a LoRA, no Orthoplex.

It is put together of what the folder's tasks need, and reads `tasks.json` beside it (see `asked`).
"""

from collections.abc import Collection
from string import Template

HEAD = Template('''"""python predict.py$options TEXT ...

Answers texts with $needs alone: a line of JSON per text. See README.md.
"""

import argparse
import json
$system
$bisect
from pathlib import Path

import torch
$peft
$safetensors
from transformers import $config$auto, AutoTokenizer$generation

HERE = Path(__file__).resolve().parent
TOLD = json.loads((HERE / "tasks.json").read_text("utf-8"))
parser = argparse.ArgumentParser()
parser.add_argument("--task", choices=TOLD["tasks"], required=len(TOLD["tasks"]) > 1, default=[*TOLD["tasks"]][0])
$base
parser.add_argument("text", nargs="+")
asked = parser.parse_args()
if damaged := [each for each in asked.text if each.encode("utf-8", "ignore").decode() != each]:
    parser.error(f"{damaged[0]!r} is not UTF-8; repair it")
how = TOLD["tasks"][asked.task]
torch.set_grad_enabled(False)
''')
PEFT = Template("""where = {"revision": TOLD["revision"] if asked.base == TOLD["base"] else None}
try:
    try:
        base = $auto.from_pretrained(asked.base, dtype=torch.$dtype, local_files_only=True, **where)
    except OSError:
        print(f"{asked.base} is not on this machine: asking the hub, unless HF_HUB_OFFLINE=1", file=sys.stderr)
        AutoConfig.from_pretrained(asked.base, **where)  # so that a hub that does not answer is asked once
        base = $auto.from_pretrained(asked.base, dtype=torch.$dtype, **where)
except OSError as error:
    parser.error(f"--base {asked.base!r} cannot be loaded; say where the base is, a folder or hub id\\n{error}")
tokenizer = AutoTokenizer.from_pretrained(HERE, config=base.config)
$greedy
model = PeftModel.from_pretrained(base, HERE).eval()
""")
MERGED = Template("""base = model = $auto.from_pretrained(HERE, dtype=torch.$dtype).eval()
tokenizer = AutoTokenizer.from_pretrained(HERE)
$greedy
""")
BASE = 'parser.add_argument("--base", default=TOLD["base"], help="the base: a folder or hub id; default: %(default)s")'
GREEDY = (
    'base.generation_config = GenerationConfig(decoder_start_token_id=TOLD["start"])  # whatever the base\'s own says'
)

PLAIN_ROW = '''

def row(text):
    """The token ids of a text; of one that is too long the end is cut off."""
    first, last = how["around"]
    ids = tokenizer(text.strip(), add_special_tokens=False, truncation=True, max_length=how["room"]).input_ids
    return first + ids + last or how["nothing"]
'''
ROW = '''

def row(text, before, after):
    """The token ids of a text in its prompt; of a text that is too long the end is cut off."""

    def ids(end=None):
        return tokenizer(before + text[:end] + after, add_special_tokens=False).input_ids

    text, (first, last) = text.strip(), how["around"]
    found = ids()
    if not before + after:
        found = tokenizer(text, add_special_tokens=False, truncation=True, max_length=how["room"]).input_ids
    elif len(found) > how["room"]:
        ends = range(len(text) + 1)
        if tokenizer.is_fast:  # says where its tokens end
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
            ends = [0, *(end for _, end in spans)]
        found = ids(ends[max(0, bisect_right(ends, how["room"], key=lambda end: len(ids(end))) - 1)])
    found = first + found + last
    return found[: len(found) - how.get("dropped", 0)] or how["nothing"]
'''
NEAREST = Template('''

def embed(text$parts):
    """The mean of the last hidden states, of length 1."""
    ids = torch.tensor([row(text$passed)])
    hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.float()
    return torch.nn.functional.normalize(hidden.mean(1), dim=-1)


def nearest(text):
    """The label word whose embedding by the unadapted base is nearest to the text's."""
    return how["labels"][int((embed(text$prompt) @ labels.T).argmax())]


$labels
''')
BY_THE_BASE = """with model.disable_adapter():
    labels = torch.cat([embed(word) for word in how["labels"]])"""
STORED = 'labels = load_file(HERE / "labels/embedded.safetensors")[asked.task]  # by the unadapted base'
LIKELIEST = Template('''

def likeliest(text):
    """The label word whose tokens, with the end of a text, have the largest sum of log p."""
    ids = row(text$prompt)

    def logp(answer):
        $logits
        return float(logits.float().log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())

    scores = [logp(answer) for answer in how["answers"]]
    return how["labels"][scores.index(max(scores))]
''')
CONTINUED = "logits = model(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]"
DECODED = """begun = torch.tensor([[TOLD["start"], *answer[:-1]]])
        logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=begun).logits[0]"""
SAY = Template('''

def say(ids):
    """The text that the model generates after these token ids."""
    drawn = {key: how[key] for key in ("temperature", "top_k", "top_p")} if how.get("temperature") else {}
    (tokens,) = model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=bool(drawn),
        max_new_tokens=how["new"], eos_token_id=how["ends"], pad_token_id=TOLD["pad"], num_beams=how["beams"], **drawn,
    )
    return tokenizer.decode(tokens[$start:], skip_special_tokens=True)
''')
NAMED = Template('''

def named(text):
    """The label word that the model generates; None if it is none."""
    said = say(row(text$prompt)).strip()
    return how["labels"][how["said"].index(said)] if said in how["said"] else None
''')
TEXT = Template('''

def text(asks):
    """The generated answer to a prompt, or to a user's turn of a conversation."""
    if how["chat"]:
        turns = [*how["system"], {"role": "user", "content": asks}]
        form = {"chat_template": how["template"], "add_generation_prompt": True, "tokenize": False}
        ids = tokenizer(tokenizer.apply_chat_template(turns, **form), add_special_tokens=how["special"]).input_ids
    else:
        $pair
    if (most := how["most"]) < len(ids):
        if not how["cut"]:
            raise SystemExit(f"a prompt has {len(ids)} tokens, and may have {most}; shorten it")
        ids = ids[: most // 2] + ids[len(ids) - (most - most // 2) :]
    answer = say(ids)
    return answer[: min((answer.find(each) for each in how["stop"] if each in answer), default=len(answer))]
''')
SHARED = """alone, whole = (tokenizer(each).input_ids for each in (asks, asks + "a"))
        ids = alone[: next((i for i, pair in enumerate(zip(alone, whole)) if pair[0] != pair[1]), len(whole))]"""
WHOLE = "ids = tokenizer(asks).input_ids"
ANSWER = Template("""

answer = $answer
for each in asked.text:
    print(json.dumps(answer(each) if each.strip() else None, ensure_ascii=False))
""")


def script(kinds: Collection[str], *, auto: str, dtype: str, merged: bool, plain: bool) -> str:
    """The text of `predict.py` for tasks of these kinds (see `asked`), of a model of transformers' class `auto`. If
    `plain`, no task has a prompt."""
    continues = auto == "AutoModelForCausalLM"
    prompt = "" if plain else ', *how["prompt"]'
    ways = {
        "nearest": NEAREST.substitute(
            parts="" if plain else ', before="", after=""', passed="" if plain else ", before, after", prompt=prompt,
            labels=STORED if merged else BY_THE_BASE,
        ),
        "likeliest": LIKELIEST.substitute(prompt=prompt, logits=CONTINUED if continues else DECODED),
        "named": NAMED.substitute(prompt=prompt),
        "text": TEXT.substitute(pair=SHARED if continues else WHOLE),
    }  # fmt: skip
    asked = sorted(kinds)
    labels, generates = {*asked} - {"text"}, {"named", "text"} & {*asked}
    found = head({*asked}, auto, dtype, merged=merged, bisects=bool(labels) and not plain)
    found += (PLAIN_ROW if plain else ROW) if labels else ""
    found += SAY.substitute(start="len(ids) " if continues else "1") if generates else ""
    found += "".join(ways[kind] for kind in asked)
    known = ", ".join(f'"{kind}": {kind}' for kind in asked)
    answer = asked[0] if len(asked) == 1 else f'{{{known}}}[how["kind"]]'
    return found + ANSWER.substitute(answer=answer)


def head(kinds: set[str], auto: str, dtype: str, *, merged: bool, bisects: bool) -> str:
    """Arguments, and the model with its tokenizer; lines that are not needed are left out."""
    encoder = "nearest" in kinds
    top = HEAD.substitute(
        options=" [--task TASK]" + ("" if merged else " [--base MODEL]"),
        needs="transformers" if merged else "transformers and peft",
        system=GONE if merged else "import sys",
        config="" if merged else "AutoConfig, ",
        bisect="from bisect import bisect_right" if bisects else GONE,
        peft=GONE if merged else "from peft import PeftModel",
        safetensors="from safetensors.torch import load_file" if merged and encoder else GONE,
        auto=auto,
        generation="" if encoder else ", GenerationConfig",
        base=GONE if merged else BASE,
    )
    model = (MERGED if merged else PEFT).substitute(auto=auto, dtype=dtype, greedy=GONE if encoder else GREEDY)
    return (top + model).replace(f"{GONE}\n", "")


GONE = "\0"  # a line that is left out
