"""The table of methods, as plain text, so that listing it does not import torch."""

from __future__ import annotations

from typing import NamedTuple


class MethodEntry(NamedTuple):
    """One row of the table: ``kind`` groups the listing, ``location`` is ``module:Class``."""

    kind: str
    paper: str
    summary: str
    location: str


TABLE: dict[str, MethodEntry] = {
    "baseline": MethodEntry(
        "control", "", "One network trained on labels only.", "coterie.methods.independent:Baseline"
    ),
    "independent": MethodEntry(
        "control",
        "",
        "Branches trained on labels only; the ensemble averages their probabilities.",
        "coterie.methods.independent:Independent",
    ),
    "okdmde": MethodEntry(
        "online",
        "Li et al., ACCV 2020, arXiv 2010.00795",
        "An ensemble of the branches, weighted by their fused features, teaches them; a loss keeps their classifiers diverse.",
        "coterie.methods.online.okdmde:OKDMDE",
    ),
    "dml": MethodEntry(
        "online",
        "Zhang et al., CVPR 2018, arXiv 1706.00384",
        "Peers learn from one another's predictions.",
        "coterie.methods.online.dml:DML",
    ),
    "cl_ilr": MethodEntry(
        "online",
        "Song and Chai, NeurIPS 2018, arXiv 1805.11761",
        "Each head learns from the mean of the others; the trunk's gradients are averaged.",
        "coterie.methods.online.cl_ilr:CLILR",
    ),
    "one": MethodEntry(
        "online",
        "Zhu et al., NeurIPS 2018, arXiv 1806.04606",
        "An ensemble of the branches, weighted by a gate on the trunk, teaches them.",
        "coterie.methods.online.one:ONE",
    ),
    "ffl": MethodEntry(
        "online",
        "Kim et al., ICPR 2020, arXiv 1904.09058",
        "A classifier on the fused feature maps and the students teach one another.",
        "coterie.methods.online.ffl:FFL",
    ),
    "okddip": MethodEntry(
        "online",
        "Chen et al., AAAI 2020, arXiv 1912.00350",
        "Each peer learns from its own attention-weighted ensemble of peers; a leader learns from the peers' mean.",
        "coterie.methods.online.okddip:OKDDip",
    ),
    "kdcl": MethodEntry(
        "online",
        "Guo et al., CVPR 2020",
        "Peers, each with its own augmented view, learn from one target combined from all predictions.",
        "coterie.methods.online.kdcl:KDCL",
    ),
    "afd": MethodEntry(
        "online",
        "Chung et al., ICML 2020, arXiv 2002.01775",
        "Peers learn from one another's logits; adversarial losses align the distributions of their feature maps.",
        "coterie.methods.online.afd:AFD",
    ),
    "pcl": MethodEntry(
        "online",
        "Wu and Gong, AAAI 2021, arXiv 2006.04147",
        "Peers, each with its own augmented view, learn from an ensemble classifier and from moving averages of the others.",
        "coterie.methods.online.pcl:PCL",
    ),
    "ffsd": MethodEntry(
        "online",
        "Li et al., TNNLS 2022, arXiv 2103.14473",
        "Diverse students teach a leader through their fused features.",
        "coterie.methods.online.ffsd:FFSD",
    ),
    "mcl": MethodEntry(
        "online",
        "Yang et al., AAAI 2022, arXiv 2104.12565",
        "Peers learn by contrastive losses between their embeddings and from one another's similarity distributions.",
        "coterie.methods.online.mcl:MCL",
    ),
    "okdph": MethodEntry(
        "online",
        "Zhang et al., CVPR 2023, arXiv 2303.14666",
        "Students and a network with their averaged weights teach one another.",
        "coterie.methods.online.okdph:OKDPH",
    ),
    "kd": MethodEntry(
        "teacher",
        "Hinton et al., 2015, arXiv 1503.02531",
        "The student learns from the teacher's softened prediction.",
        "coterie.methods.teacher.kd:KD",
    ),
    "dkd": MethodEntry(
        "teacher",
        "Zhao et al., CVPR 2022, arXiv 2203.08679",
        "KD split into two terms, one for the target class and one for the other classes.",
        "coterie.methods.teacher.dkd:DKD",
    ),
    "dist": MethodEntry(
        "teacher",
        "Huang et al., NeurIPS 2022, arXiv 2205.10536",
        "Correlation with the teacher's predictions, between and within classes, replaces the KL divergence.",
        "coterie.methods.teacher.dist:DIST",
    ),
    "rlkd": MethodEntry(
        "teacher",
        "Peng and Zhang, COLING 2025, arXiv 2409.12545",
        "A ranking loss on the teacher's most probable classes or tokens, in addition to a divergence.",
        "coterie.methods.language.rlkd:RankingKD",
    ),
    "fitnet": MethodEntry(
        "teacher",
        "Romero et al., ICLR 2015, arXiv 1412.6550",
        "The student's projected stage features match the teacher's.",
        "coterie.methods.teacher.fitnet:FitNet",
    ),
    "at": MethodEntry(
        "teacher",
        "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928",
        "The student matches the teacher's spatial attention maps.",
        "coterie.methods.teacher.at:AttentionTransfer",
    ),
    "rkd": MethodEntry(
        "teacher",
        "Park et al., CVPR 2019, arXiv 1904.05068",
        "The student matches the teacher's distances and angles between samples.",
        "coterie.methods.teacher.rkd:RKD",
    ),
    "ofa": MethodEntry(
        "teacher",
        "Hao et al., NeurIPS 2023, arXiv 2310.19444",
        "Exit branches learn from the teacher's logits, whatever its architecture.",
        "coterie.methods.teacher.ofa:OFA",
    ),
    "diffkd": MethodEntry(
        "teacher",
        "Huang et al., NeurIPS 2023, arXiv 2305.15712",
        "A diffusion model trained on the teacher's features denoises the student's before they are compared.",
        "coterie.methods.teacher.diffkd:DiffKD",
    ),
    "stkd": MethodEntry(
        "teacher",
        "after Zhao et al., 2021, arXiv 2103.10047",
        "The student learns the teacher's class similarities on mixtures of two images.",
        "coterie.methods.teacher.stkd:STKD",
    ),
    "amd": MethodEntry(
        "teacher",
        "after Han et al., ECCV 2024, arXiv 2407.04208",
        "A teacher assistant is pruned from the teacher and then teaches the student: two runs in one command.",
        "coterie.methods.teacher.amd:AMD",
    ),
    "rl_kd": MethodEntry(
        "multi-teacher",
        "after Yuan et al., AAAI 2021, arXiv 2012.06048",
        "A policy selects the teachers of each sample.",
        "coterie.methods.teacher.rl_kd:RLKD",
    ),
    "contrastive": MethodEntry(
        "dual encoder",
        "Henderson et al., 2017, arXiv 1705.00652",
        "A dual encoder trained on labels only, with in-batch negatives.",
        "coterie.methods.retrieval.contrastive:Contrastive",
    ),
    "embed_distill": MethodEntry(
        "dual encoder",
        "Kim et al., 2023, arXiv 2301.12005",
        "The student's query and document vectors match the teacher's, in addition to losses on its scores and the labels.",
        "coterie.methods.retrieval.embed_distill:EmbedDistill",
    ),
    "margin_mse": MethodEntry(
        "dual encoder",
        "Hofstätter et al., 2020, arXiv 2010.02666",
        "The student matches the differences of the teacher's scores; a control.",
        "coterie.methods.retrieval.margin_mse:MarginMSE",
    ),
    "dfosd": MethodEntry(
        "one-step",
        "Li et al., NeurIPS 2025, arXiv 2410.04224",
        "A one-step diffusion network trained against a discriminator built from another diffusion network.",
        "coterie.methods.restoration.dfosd:DFOSD",
    ),
    "vsd": MethodEntry(
        "one-step",
        "after Wu et al., NeurIPS 2024, arXiv 2406.08177",
        "A one-step network distilled from a multi-step diffusion model by the difference of two scores.",
        "coterie.methods.restoration.vsd:VSD",
    ),
    "regression": MethodEntry(
        "control",
        "",
        "A one-step network trained on the squared error only; the control of the other one-step methods.",
        "coterie.methods.restoration.regression:Regression",
    ),
    "denoising": MethodEntry(
        "one-step",
        "Ho et al., NeurIPS 2020, arXiv 2006.11239",
        "Trains the diffusion model itself on sharp images; the others start from it if there are no published weights.",
        "coterie.methods.restoration.denoising:Denoising",
    ),
    "ekd": MethodEntry(
        "speech encoder",
        "Huang et al., ICASSP 2023, arXiv 2302.12757",
        "One small student predicts the hidden states of several speech encoders, frame by frame.",
        "coterie.methods.speech.ekd:EnsembleKD",
    ),
    "byot": MethodEntry(
        "self",
        "Zhang et al., ICCV 2019, arXiv 1905.08094",
        "Exits at shallow stages learn from the deepest classifier.",
        "coterie.methods.self_distillation.byot:BYOT",
    ),
    "dks": MethodEntry(
        "self",
        "Sun et al., CVPR 2019, arXiv 1906.00675",
        "Exits and the final classifier learn from one another.",
        "coterie.methods.online.dks:DKS",
    ),
    "ddgsd": MethodEntry(
        "self",
        "Xu and Liu, AAAI 2019",
        "Predictions for two augmented views of an image learn from each other.",
        "coterie.methods.online.ddgsd:DDGSD",
    ),
    "frskd": MethodEntry(
        "self",
        "Ji et al., CVPR 2021, arXiv 2103.08273",
        "A feature pyramid over the student's stages teaches the student.",
        "coterie.methods.self_distillation.frskd:FRSKD",
    ),
    "multilevel": MethodEntry(
        "self",
        "ours, prompted by Lin and Li, 2021, arXiv 2112.13642",
        "Fused features of several levels teach the student.",
        "coterie.methods.self_distillation.multilevel:MultilevelSelfKD",
    ),
}
