"""Makes the golden cases mamba-narrow, mamba-biased and mamba-short.

    python tests/golden/make_cases.py FOLDER

A Mamba language model written out token by token in float64, one token after
another as the equations read; PyTorch's automatic differentiation gives the
gradients. Needs torch and safetensors.
"""
import json
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
EPSILON = 1e-5


def make_parameters(c, generator):
    """Random values that fp32 represents exactly."""
    parameters = {}

    def add(name, *shape, scale=0.3, offset=0.0):
        value = torch.randn(*shape, generator=generator) * scale + offset
        parameters[name] = value.float().double().requires_grad_()

    d, inner, states = c["hidden_size"], c["intermediate_size"], c["state_size"]
    rank = c["time_step_rank"]
    add("backbone.embeddings.weight", c["vocab_size"], d, scale=1.0)
    for i in range(c["num_hidden_layers"]):
        layer = f"backbone.layers.{i}."
        mixer = layer + "mixer."
        add(layer + "norm.weight", d, scale=0.1, offset=1.0)
        add(mixer + "A_log", inner, states)
        add(mixer + "D", inner, offset=1.0)
        add(mixer + "in_proj.weight", 2 * inner, d)
        add(mixer + "conv1d.weight", inner, 1, c["conv_kernel"])
        add(mixer + "x_proj.weight", rank + 2 * states, inner)
        add(mixer + "dt_proj.weight", inner, rank)
        add(mixer + "dt_proj.bias", inner, offset=-1.0)
        add(mixer + "out_proj.weight", d, inner)
        if c["use_bias"]:
            add(mixer + "in_proj.bias", 2 * inner)
            add(mixer + "out_proj.bias", d)
        if c["use_conv_bias"]:
            add(mixer + "conv1d.bias", inner)
    add("backbone.norm_f.weight", d, scale=0.1, offset=1.0)
    if not c["tie_word_embeddings"]:
        add("lm_head.weight", c["vocab_size"], d)
    return parameters


def norm(x, weight):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPSILON) * weight


def convolve(x, keep, weight, bias):
    """x [B, L, E]; the last K - 1 inputs are the carry."""
    batch, length, inner = x.shape
    taps = weight.shape[-1]
    window = torch.zeros(batch, taps - 1, inner)
    out = []
    for t in range(length):
        seen = torch.cat([window * keep[:, t, None, None], x[:, t : t + 1]], 1)
        y = (seen * weight[:, 0, :].T).sum(1)
        out.append(F.silu(y if bias is None else y + bias))
        window = seen[:, 1:]
    return torch.stack(out, 1), window.transpose(1, 2)


def scan(u, dt, a, b, c, d, keep):
    state = torch.zeros(u.shape[0], *a.shape)
    out = []
    for t in range(u.shape[1]):
        step = dt[:, t, :, None]
        state = torch.exp(step * a) * state * keep[:, t, None, None]
        state = state + step * u[:, t, :, None] * b[:, t, None]
        out.append((state * c[:, t, None]).sum(-1) + d * u[:, t])
    return torch.stack(out, 1), state


def mix(c, p, x, keep):
    """One mixer; `p` maps short names to parameters."""
    inner, rank, states = (
        c["intermediate_size"],
        c["time_step_rank"],
        c["state_size"],
    )
    xz = x @ p["in_proj.weight"].T + p.get("in_proj.bias", 0)
    u, conv = convolve(
        xz[..., :inner], keep, p["conv1d.weight"], p.get("conv1d.bias")
    )
    dbc = u @ p["x_proj.weight"].T
    dt = F.softplus(dbc[..., :rank] @ p["dt_proj.weight"].T + p["dt_proj.bias"])
    b, cc = dbc[..., rank : rank + states], dbc[..., rank + states :]
    y, state = scan(u, dt, -torch.exp(p["A_log"]), b, cc, p["D"], keep)
    y = y * F.silu(xz[..., inner:])
    return y @ p["out_proj.weight"].T + p.get("out_proj.bias", 0), conv, state


def run(c, parameters, tokens, keep):
    expected = {}
    x = parameters["backbone.embeddings.weight"][tokens]
    for i in range(c["num_hidden_layers"]):
        layer = f"backbone.layers.{i}."
        mixer = layer + "mixer."
        p = {
            name[len(mixer) :]: value
            for name, value in parameters.items()
            if name.startswith(mixer)
        }
        y, conv, state = mix(c, p, norm(x, parameters[layer + "norm.weight"]), keep)
        x = x + y
        expected[f"carry.{i}.conv"] = conv
        expected[f"carry.{i}.state"] = state
    x = norm(x, parameters["backbone.norm_f.weight"])
    tied = parameters["backbone.embeddings.weight"]
    expected["logits"] = x @ parameters.get("lm_head.weight", tied).T
    return expected


def make_case(folder, batch, length, packed, seed, **config):
    c = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_act": "silu",
        "residual_in_fp32": True,
        "layer_norm_epsilon": EPSILON,
        "intermediate_size": config["expand"] * config["hidden_size"],
        **config,
    }
    generator = torch.Generator().manual_seed(seed)
    parameters = make_parameters(c, generator)
    tokens = torch.randint(c["vocab_size"], (batch, length), generator=generator)
    start = torch.zeros(batch, length, dtype=torch.long)
    if packed:
        start = (torch.rand(batch, length, generator=generator) < 0.25).long()
    expected = run(c, parameters, tokens, (1 - start).double())

    targets = torch.full((batch, length), -100)
    targets[:, :-1] = torch.where(start[:, 1:] == 1, -100, tokens[:, 1:])
    loss = F.cross_entropy(
        expected["logits"].reshape(-1, c["vocab_size"]), targets.reshape(-1)
    )
    loss.backward()
    expected.update(loss=loss.reshape(1), tokens=tokens)
    if packed:
        expected["document_start"] = start
    for name, value in parameters.items():
        expected["grad." + name] = value.grad

    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(c, file, indent=2)
        file.write("\n")
    save_file(
        {name: x.detach().float().contiguous() for name, x in parameters.items()},
        f"{folder}/model.safetensors",
        metadata={"format": "pt"},
    )
    save_file(
        {name: x.detach().contiguous() for name, x in expected.items()},
        f"{folder}/expected.safetensors",
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = sys.argv[1]
    # One state, two taps, no expansion, rank 1, untied, biases of one kind.
    make_case(
        f"{root}/mamba-narrow", batch=3, length=9, packed=True, seed=1,
        hidden_size=10, num_hidden_layers=2, state_size=1, conv_kernel=2,
        expand=1, time_step_rank=1, vocab_size=13, use_bias=True,
        use_conv_bias=False, tie_word_embeddings=False,
    )
    # All biases; no size a multiple of a vector.
    make_case(
        f"{root}/mamba-biased", batch=2, length=33, packed=True, seed=2,
        hidden_size=24, num_hidden_layers=3, state_size=5, conv_kernel=4,
        expand=2, time_step_rank=7, vocab_size=50, use_bias=True,
        use_conv_bias=True, tie_word_embeddings=True,
    )
    # Shorter than the convolution.
    make_case(
        f"{root}/mamba-short", batch=4, length=2, packed=False, seed=4,
        hidden_size=8, num_hidden_layers=4, state_size=3, conv_kernel=4,
        expand=2, time_step_rank=1, vocab_size=7, use_bias=False,
        use_conv_bias=True, tie_word_embeddings=True,
    )


if __name__ == "__main__":
    main()
