#!/usr/bin/env python3
"""The log-probs of a rollout by `transformers`, and `peft` where there are adapters.

    scripts/hugging_face_log_probs.py MODEL [--adapters DIR] ROLLOUT.safetensors OUT.safetensors
    cargo run --release -p train-language-model -- check --model MODEL [--adapters DIR] --rollout OUT.safetensors

MODEL and DIR are what `train-language-model` has saved, or anything else of their layout. OUT is the
rollout with `ref_log_probs` of this model, in f32. The second command says how far the log-probs of
this workspace's own model are from them.
"""

import argparse
import json

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--adapters")
parser.add_argument("rollout")
parser.add_argument("out")
arguments = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
if arguments.adapters:
    model = PeftModel.from_pretrained(model, arguments.adapters)
model.eval()

with safe_open(arguments.rollout, "pt") as file:
    metadata = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}
prompts = json.loads(metadata["prompt_token_ids"])
log_probs = torch.zeros(tensors["tokens"].shape)
with torch.no_grad():
    for row, (tokens, mask, group) in enumerate(zip(tensors["tokens"], tensors["action_mask"], tensors["group_id"])):
        length = int(mask.sum())
        prompt = torch.tensor(prompts[int(group)])
        sequence = torch.cat([prompt, tokens[:length]])
        logits = model(sequence[None].long()).logits[0, len(prompt) - 1 : -1]
        log_probs[row, :length] = torch.log_softmax(logits.float(), -1)[range(length), tokens[:length].long()]
save_file({**tensors, "ref_log_probs": log_probs}, arguments.out, metadata)
