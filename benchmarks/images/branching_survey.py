"""Splits one small variant of many timm families and checks each against the plain network; writes a table.

python -m benchmarks.images.branching_survey
"""

from __future__ import annotations

import copy
import time
from typing import Any

import timm
import torch

import coterie
from benchmarks.shared import RESULTS
from coterie.networks import register

RESULT = RESULTS / "branching_survey.md"

# name, arguments of timm.create_model, image side
ARCHITECTURES: list[tuple[str, dict[str, Any], int]] = [
    ("resnet10t", {}, 64), ("resnet18", {}, 64), ("resnet32_cifar", {}, 32), ("densenet40_12_cifar", {}, 32),
    ("wrn16_2_cifar", {}, 32), ("vgg16_cifar", {}, 32), ("vit_tiny_patch16_224", {"img_size": 64}, 64),
    ("deit3_small_patch16_224", {"img_size": 64}, 64), ("swin_tiny_patch4_window7_224", {}, 224),
    ("swinv2_tiny_window8_256", {}, 256), ("convnext_atto", {}, 64), ("convnextv2_atto", {}, 64),
    ("levit_128s", {"distilled": False}, 224), ("hrnet_w18_small", {}, 64), ("mixer_s32_224", {}, 224),
    ("coat_lite_tiny", {"img_size": 64}, 64), ("efficientnet_b0", {}, 64), ("efficientnetv2_rw_t", {}, 64),
    ("mobilenetv2_050", {}, 64), ("mobilenetv3_small_050", {}, 64), ("mobilenetv4_conv_small", {}, 64),
    ("regnetx_002", {}, 64), ("regnety_002", {}, 64), ("densenet121", {}, 64), ("ghostnet_050", {}, 64),
    ("repghostnet_050", {}, 64), ("edgenext_xx_small", {}, 64), ("mobilevit_xxs", {}, 64), ("mobilevitv2_050", {}, 64),
    ("poolformer_s12", {}, 64), ("pit_ti_224", {}, 224), ("xcit_nano_12_p16_224", {}, 224), ("resmlp_12_224", {}, 224),
    ("gmlp_ti16_224", {}, 224), ("repvgg_a0", {}, 64), ("dla46_c", {}, 64), ("res2net50_14w_8s", {}, 64),
    ("inception_v3", {"aux_logits": False}, 128), ("nf_regnet_b0", {}, 64), ("cait_xxs24_224", {}, 224),
    ("maxvit_tiny_rw_224", {}, 224), ("convmixer_768_32", {}, 64), ("fastvit_t8", {}, 64), ("tiny_vit_5m_224", {}, 224),
    ("volo_d1_224", {}, 224), ("visformer_tiny", {}, 224), ("focalnet_tiny_srf", {}, 64), ("davit_tiny", {}, 64),
    ("sequencer2d_s", {}, 224), ("rexnet_100", {}, 64), ("selecsls42b", {}, 64), ("tresnet_m", {}, 64),
    ("hardcorenas_a", {}, 64), ("xception41", {}, 64), ("nest_tiny", {}, 224), ("pvt_v2_b0", {}, 64),
    ("mvitv2_tiny", {}, 224), ("hiera_tiny_224", {}, 224), ("inception_next_atto", {}, 64),
    ("deit_tiny_distilled_patch16_224", {}, 224), ("efficientformer_l1", {}, 224), ("crossvit_tiny_240", {}, 240),
    ("twins_pcpvt_small", {}, 224), ("eva02_tiny_patch14_224", {}, 224),
]  # fmt: skip


def check(name: str, options: dict[str, Any], side: int) -> list[str]:
    """Return one row: where the network was split, its outputs, and whether they equal those of the plain network."""
    started = time.perf_counter()
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=10, **options)
    inputs = torch.randn(2, 3, side, side)
    group = coterie.branch(copy.deepcopy(plain), branches=2, at="auto", example=torch.zeros(2, 3, side, side))
    with torch.inference_mode():
        output = group.eval()(inputs)
        equal = torch.equal(output.logits[0], plain.eval()(inputs))
        students = [group.student(number).eval() for number in range(2)]
        plain.load_state_dict(students[1].state_dict(), strict=True)
        strict = all(torch.equal(each(inputs), output.logits[i]) for i, each in enumerate(students))
        # In train mode, with the same seed and statistics. Trunk and branch 0 draw first, so their dropout masks agree.
        reference = students[0].train()
        torch.manual_seed(1)
        expected = reference(inputs)
        torch.manual_seed(1)
        trained = torch.equal(group.train()(inputs).logits[0], expected)
    trunk = sum(p.numel() for p in group.trunk.parameters()) / sum(p.numel() for p in reference.parameters())
    words = ["no", "yes"]
    shape = "x".join(map(str, group.feature_shapes[0]))
    return [
        name, f"`{group.split_point}`", f"{trunk:.0%}", shape, words[equal], words[trained], words[strict],
        f"{time.perf_counter() - started:.1f}",
    ]  # fmt: skip


def main() -> None:
    register()
    rows, refused = [], []
    for name, options, side in ARCHITECTURES:
        try:
            rows.append(check(name, options, side))
        except coterie.CoterieError as error:
            refused.append(f"- {name}: {str(error).splitlines()[0]}")
        print(name, flush=True)
    lines = [
        "# Branching survey",
        "",
        f"Made by `benchmarks/images/branching_survey.py` with timm {timm.__version__}, torch {torch.__version__}: {len(rows)} of {len(rows) + len(refused)} architectures "
        "are split by `at=auto` into a trunk and two branches. *eval* and *train*: trunk and branch 0 equal the plain network bit for bit in that mode (train: "
        "one seed). *students*: both load strictly into a plain network whose logits equal the group's bit for bit.",
        "",
        "| architecture | split before | parameters in the trunk | feature map | eval | train | students | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "Refused, each in one line that names the way out (a split by hand):",
        "",
        *refused,
        "",
    ]
    RESULT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
