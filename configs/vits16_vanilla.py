"""DINO ViT-S/16 on ImageNet-1k, the vanilla run of the official README; the base of all configs.

Paper: Emerging Properties in Self-Supervised Vision Transformers, arXiv:2104.14294. All values are
the defaults of the official main_dino.py, but for bfloat16 activations where the official run used
float16. Expected (official README): 69.3 % k-NN, 74.0 % linear after 100 epochs at batch 512.
Hardware and time: officially 8 V100, 1.75 days. Not yet run here on a TPU.

Command:
  dino-jax train --config=vits16_vanilla --workdir=runs/vits16_vanilla \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def crop(
    group: str,
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    blur: float,
    solarize: float,
):
    """One kind of crop; probabilities are `flip`, `jitter`, `grayscale`, `blur` and `solarize`."""
    return ConfigDict(
        dict(
            group=group,  # crops of one group have one size and one array in the batch
            count=count,  # crops of this kind per image
            size=size,  # (height, width) in pixels
            scale=scale,  # share of the image area
            ratio=(3 / 4, 4 / 3),  # width / height of the box
            flip=0.5,
            jitter=0.8,
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            grayscale=0.2,
            blur=blur,
            blur_radius=(0.1, 2.0),  # pixels of the resized crop
            solarize=solarize,
            solarize_threshold=128,
            box_of="",  # crop whose box and flip this one takes; "": its own
            frame=0,  # of a clip that it is cut from; a still image has one
        )
    )


def role(follow: str, sees: tuple[str, ...], *, masked: str = "no", drop_path: bool = False):
    """One network of the run; a way to follow reads the fields that it needs."""
    return ConfigDict(
        dict(
            # learns (by the optimizer; exactly one) | averages (EMA of that one) | copies | frozen
            follow=follow,
            sees=sees,  # groups of crops of its forward pass; (): no pass
            masked=masked,  # masked patches of its global crops: no (it sees them) | hide | drop
            drop_path=drop_path,  # stochastic depth in its pass
            leaves_out=(),  # heads that this network lacks
            momentum=0.996,  # averages
            momentum_end=1.0,
            momentum_delay=0,  # 1: the schedule is read one step later (MoCo v3)
            of="teacher",  # copies: role that is copied
            every_steps=10_000,  # copies
            path="",  # frozen: workdir of a run with the same heads (docs/distilling.md)
            step=placeholder(int),  # frozen: its checkpoint; None: the newest
        )
    )


def images(kind: str, split: str):
    """Where images come from; a kind reads the fields that it needs."""
    return ConfigDict(
        dict(
            # folder | list | glob | arrayrecord | tar | parquet (path), tfds (name, split,
            # data_dir), digits (split), mixture (sources)
            kind=kind,
            path="",
            name="imagenet2012",
            split=split,
            data_dir="",
            image_column="",  # parquet; "": the only column that holds images
            label_column="",  # parquet; "": no labels
            sources=ConfigDict(),  # mixture: sources by name, each like this one
            weight=1.0,  # as a part of a mixture
        )
    )


def evaluation(kind: str, **options: Any):
    """What every evaluation has, and the options of its kind."""
    common = dict(
        kind=kind,  # knn | proxies | agreement
        every_epochs=10.0,  # 0: never by itself
        of=(),  # roles that are measured; (): the evaluated one
        image_size=placeholder(int),  # side in pixels; None: config.image_size
        batch_size=512,
    )
    return ConfigDict(common | options)


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512  # images per update, over all devices
    config.accumulate_steps = 1  # passes per update
    config.epochs = 100.0
    config.steps_per_epoch = 0  # 0: images // batch_size

    config.data = images("folder", "train")
    config.max_pixels = 178_956_970  # larger images count as unreadable (Pillow's own limit)
    config.augment = ConfigDict()
    config.augment.backend = "host"  # who recolors the crops: host | device
    # as_documented: with the probability `blur` of a crop | as_trained: with 1 - blur, as DINOv2's
    # code does by mistake (dinov3 issue 286).
    config.augment.blur = "as_documented"
    crops = config.augment.crops = ConfigDict()
    crops.global_1 = crop("global", 1, (224, 224), (0.4, 1.0), blur=1.0, solarize=0.0)
    crops.global_2 = crop("global", 1, (224, 224), (0.4, 1.0), blur=0.1, solarize=0.2)
    crops.local = crop("local", 8, (96, 96), (0.05, 0.4), blur=0.5, solarize=0.0)
    # Masked patches of the crops of the group "global", for roles whose `masked` is not "no".
    config.masking = ConfigDict(
        dict(
            kind="block",  # block (DINOv2) | random (MAE: probability 1, the same share in all)
            probability=0.0,  # share of the crops with a mask; 0: no masks
            ratio=(0.1, 0.5),  # share of patches that is masked in such a crop; random: the second
            group_size=32,  # images that share one draw; divides the images per device
        )
    )

    # First weights of all networks; the run starts at step 0 with its own schedules.
    config.init_from = ConfigDict(
        dict(
            path="",  # workdir of a run, import or file (docs/weights.md); "": random
            step=placeholder(int),  # checkpoint of the workdir; None: the newest
            heads="import",  # import (those that fit; others are random) | fresh (all are random)
        )
    )

    config.roles = ConfigDict()
    config.roles.student = role("learns", ("global", "local"), masked="hide", drop_path=True)
    config.roles.teacher = role("averages", ("global",))
    config.evaluated = "teacher"  # role that is evaluated, guarded, loaded and exported

    config.network = ConfigDict()
    config.network.dtype = "bfloat16"  # activations; parameters, EMA, center, losses are float32
    config.network.mean = (0.485, 0.456, 0.406)  # ImageNet, torchvision
    config.network.std = (0.229, 0.224, 0.225)
    config.network.backbone = ConfigDict(
        dict(
            kind="vit",
            size="small",  # tiny | small | base | large | giant
            embed_dim=placeholder(int),  # None: as `size`
            depth=placeholder(int),
            num_heads=placeholder(int),
            patch_size=16,
            image_size=(224, 224),  # (height, width) of the position table
            in_channels=3,
            mlp_ratio=4.0,
            ffn="mlp",  # mlp | swiglu
            layer_scale=0.0,  # first value of the factors of the branches; 0: none
            registers=0,  # register tokens
            has_mask_token=False,  # for masked patches
            token_std=0.02,  # of the first cls and register tokens
            qkv_bias=True,
            proj_bias=True,
            ffn_bias=True,
            norm_epsilon=1e-6,  # of every LayerNorm
            drop_path_rate=0.1,  # of the student
            drop_path_schedule="linear",  # over depth, from 0: linear | uniform
            drop_path_kind="per_sample",  # per_sample | subset: computes only what it keeps
            drop_path_group=placeholder(int),  # subset: crops that it is drawn from; None: all
            position_kernel="bicubic",  # bicubic | antialiased | bicubic_plain
            remat="none",  # what the backward pass keeps: none (all) | names | full (nothing)
            scan_unroll=0,  # blocks per iteration of a loop; 0: all on TPUs, one elsewhere
        )
    )
    config.network.heads = ConfigDict()
    config.network.heads.dino = ConfigDict(
        dict(
            kind="dino",  # dino | mlp (projectors and predictors)
            of="cls",  # what it takes: cls | patches | the name of another head
            out_dim=65536,
            hidden_dim=2048,
            bottleneck_dim=256,
            layers=3,
            batch_norm=False,
            train_gain=False,  # official norm_last_layer=True
        )
    )

    config.objectives = ConfigDict()
    config.objectives.dino = ConfigDict(
        dict(
            kind="dino",  # dino | ibot | koleo
            weight=1.0,
            head="dino",
            targets="teacher",  # role that gives them
            student_temperature=0.1,
            teacher_temperature=0.04,
            warmup_teacher_temperature=0.04,
            warmup_teacher_temperature_epochs=0.0,
            warmup_teacher_temperature_every="epoch",  # epoch | step
            centering="center",  # center | sinkhorn
            center_momentum=0.9,  # center
            sinkhorn_iterations=3,  # sinkhorn
            min_local_pairs=0,  # the mean over pairs counts at least this many with a local crop
        )
    )

    config.optimizer = ConfigDict(
        dict(
            kind="adamw",  # adamw | sgd | lars
            lr=5e-4,  # at reference_batch images; the peak is lr * batch_size / reference_batch
            reference_batch=256,
            lr_scaling="linear",  # linear | sqrt (of batch_size / reference_batch)
            min_lr=1e-6,  # not scaled
            warmup_epochs=10.0,
            weight_decay=0.04,
            weight_decay_end=0.4,
            layer_decay=1.0,  # of the learning rate, from a block to the one before it
            patch_embed_lr_multiplier=1.0,
            clip_grad=3.0,  # L2 norm of a gradient; 0: off
            clip="tensor",  # each tensor | module: backbone and each head
            freeze_backbone_epochs=0.0,  # the heads warm up alone
            freeze_last_layer_epochs=1.0,
            freeze="skip",  # frozen: skip (no gradient, no moments) | zero_lr
            adamw=ConfigDict(dict(b1=0.9, b2=0.999, eps=1e-8)),
            sgd=ConfigDict(dict(momentum=0.9)),
            lars=ConfigDict(dict(momentum=0.9, trust_coefficient=0.001)),
        )
    )
    config.max_skipped_in_a_row = 10  # steps that are not finite before the run stops
    config.max_unreadable_share = 0.05  # of the images seen, before the run stops

    # What is measured while the model is trained, by name; an evaluation whose images have no path
    # is left out.
    config.image_size = 224  # side in pixels at which images are evaluated and embedded
    config.evaluations = ConfigDict()
    # Accuracy of held-out images by their nearest training images: the only use of labels.
    config.evaluations.knn = evaluation(
        "knn",
        train=images("folder", "train"),
        test=images("folder", "validation"),
        max_train_images=50_000,
        max_test_images=10_000,
        k=(10, 20),
        temperature=0.07,
        raw_pixels=False,  # also measure what the pixels themselves reach
    )
    # Without labels: the effective rank of the first role's features, and how far both agree.
    config.evaluations.proxies = evaluation(
        "proxies",
        of=("teacher", "student"),
        images=images("folder", "validation"),
        max_images=10_000,
        k=10,
    )
    # Without labels: the neighbours that images have kept since the start, for the guard.
    config.evaluations.agreement = evaluation(
        "agreement",
        every_epochs=0.0,
        images=images("folder", "validation"),
        max_images=10_000,
        k=10,
    )

    # The same few images at every evaluation: attention, patch PCA and nearest training images.
    config.probes = ConfigDict(
        dict(
            count=8,  # 0: none
            evaluation="knn",  # whose held-out images are shown; "", or if it has none: config.data
            neighbours=5,  # shown for each probe
            gallery=1000,  # training images that they are chosen from
        )
    )
    # What to do when the run gets worse than the model of init_from (docs/continuing.md).
    config.guard = ConfigDict(
        dict(
            action="none",  # none | warn | stop | roll_back
            evaluation="knn",  # knn (accuracy) | agreement (no labels), or another one; in [0, 1]
            margin=0.05,  # how far it may fall below that of the model of init_from; agreement: 0.5
            every_epochs=1.0,
            lr_factor=0.1,  # roll_back: of the learning rates, each time
            max_roll_backs=2,  # roll_back: then stop
        )
    )

    # How the run is carried out, not what it computes: may change when a workdir is resumed.
    config.runtime = ConfigDict(
        dict(
            fsdp=1,  # devices that share one copy of the state
            gradient_dtype="float32",  # in which devices sum gradients; bfloat16: half the traffic
            workers=8,  # input processes per host; 0: threads of the main process
            threads=1,  # read threads per worker
            log_every_steps=50,
            save_every_steps=1000,
            save_every_minutes=5.0,  # since the last checkpoint; 0: by steps only
            keep_checkpoints=2,
            stop_on_collapse=False,  # end the run when its diagnosis is a failure
            compilation_cache="",  # folder of compiled programs, of all hosts, for faster starts
            join_report_seconds=60.0,  # --distributed: between reports about missing processes
            join_timeout_seconds=600.0,  # --distributed: then exit code 75
            writers=("tensorboard",),  # beside metrics.jsonl: tensorboard | wandb | mlflow
        )
    )
    config.profile = ConfigDict(
        dict(
            steps=(),  # (first, last): an xprof trace of these steps in workdir/profile
        )
    )
    return config
