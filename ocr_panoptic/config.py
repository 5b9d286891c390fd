"""Every config key that this project adds to Detectron2's."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

__all__ = ["ALLOW_MISSING", "ALLOW_UNUSED", "add_context_keys", "add_ocr_panoptic_config"]

ALLOW_MISSING = (
    *("backbone.fpn_*", "backbone.top_block", "proposal_generator", "roi_heads", "sem_seg_head"),
    *("sem_seg_head.ocr*", "sem_seg_head.context*", "backbone.bottom_up.*.context"),
)
"""Default of MODEL.ALLOW_MISSING: FPN, RPN, heads, OCR and context."""
ALLOW_UNUSED = ("fc", "fc1000", "stem.fc", "head.fc", "linear", "classifier")
"""Default of MODEL.ALLOW_UNUSED: the classifier that a backbone was trained with."""


def add_ocr_panoptic_config(cfg: CfgNode) -> None:
    """Add the keys of this project to a Detectron2 config; a stock model is built as before.

    Args:
        cfg: from :func:`detectron2.config.get_cfg`, changed in place.
    """
    # Detectron2's default is "cuda" everywhere. A config that names a device still decides.
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

    # Parts of the model, as prefixes of its keys with * for anything, that MODEL.WEIGHTS may be
    # without, or have in another size, as for another number of classes: they start anew.
    cfg.MODEL.ALLOW_MISSING = ALLOW_MISSING
    # Parts of MODEL.WEIGHTS, as such prefixes of its own keys, that may go unused.
    cfg.MODEL.ALLOW_UNUSED = ALLOW_UNUSED
    # Load checkpoints that could run any code too. --trust-checkpoint sets it; not a config file,
    # which may come from where the checkpoint does.
    cfg.MODEL.TRUST_CHECKPOINT = False

    # Data sets of one's own, from a COCO panoptic json each: a list of mappings with NAME,
    # IMAGE_ROOT, PANOPTIC_JSON and PANOPTIC_ROOT. Where TRAIN or TEST names one, both NUM_CLASSES
    # come from its json, unless they are set where CUSTOM is set, or later.
    cfg.DATASETS.CUSTOM = []
    # Folder for what is derived from them, semantic labels and instances; "" for
    # $OCR_PANOPTIC_CACHE, and without that beside the json.
    cfg.DATASETS.CACHE = ""

    # Images per batch that the schedule is made for: BASE_LR, WARMUP_ITERS, MAX_ITER and STEPS. If
    # IMS_PER_BATCH alone is overridden, they follow by the linear rule; 0 for never. A file that
    # sets it means the schedule as of that file: what is set in a file based on it, or on the
    # command line, is overridden.
    cfg.SOLVER.REFERENCE_BATCH = 0
    # What happens where a loss is infinite or not a number: "stop", with exit status 3, or "skip"
    # the step. Both write nonfinite.json and the batch to OUTPUT_DIR.
    cfg.SOLVER.NONFINITE = "stop"
    # Steps in a row that may be skipped: a model that is broken would skip for ever.
    cfg.SOLVER.NONFINITE_SKIPS = 5

    # SOLVER.AMP.ENABLED: in what convolutions and matrix products are computed, "float16", with
    # gradients scaled, or "bfloat16", whose range needs no scaling.
    cfg.SOLVER.AMP.DTYPE = "float16"

    # DATALOADER.SAMPLER_TRAIN RandomSubsetTrainingSampler: part of the images that is trained on.
    # Detectron2 reads it, and has no default.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0

    cfg.MODEL.SEM_SEG_HEAD.OCR = ocr = CfgNode()
    # Channels of the OCR stage: of the pixels that enter it and of the augmented pixels.
    ocr.CHANNELS = 512
    # Channels of query, key and value.
    ocr.KEY_CHANNELS = 256
    # Probability of dropping a channel of the augmented pixels in training.
    ocr.DROPOUT = 0.05
    # Norm of every convolution of the OCR stage; MODEL.SEM_SEG_HEAD.NORM is the FPN head's own.
    ocr.NORM = "SyncBN"
    # Number of 1x1-norm-ReLU in query and in key: 2 in the authors' code, 1 in the paper's text.
    ocr.TRANSFORM_LAYERS = 2
    # Weight of the loss on the original prediction, from which the soft object regions come.
    # MODEL.SEM_SEG_HEAD.LOSS_WEIGHT weighs the loss on the refined prediction.
    ocr.AUX_LOSS_WEIGHT = 0.25
    # Keep the padding of a batch out of the soft object regions. Off as in the authors' code, to
    # evaluate weights that others trained.
    ocr.MASK_PADDING = True
    # Compute the OCR stage again in the backward pass instead of keeping what it needs: less
    # memory, more time, the same numbers.
    ocr.CHECKPOINT_ACTIVATIONS = False

    # Context layer in front of a block of the ResNet, or none.
    # MODEL.BACKBONE.NAME build_context_resnet_fpn_backbone reads it.
    cfg.MODEL.RESNETS.CONTEXT = context = CfgNode()
    add_context_keys(context)
    # Stage of that block.
    context.STAGE = "res4"
    # Index of that block in its stage; negative ones count from the last.
    context.BLOCK = -1

    # Context layer between the fused FPN map and the classifier.
    # MODEL.SEM_SEG_HEAD.NAME ContextSemSegFPNHead reads it.
    cfg.MODEL.SEM_SEG_HEAD.CONTEXT = context = CfgNode()
    add_context_keys(context)
    # Channels of the pixels that enter the layer, and of its result.
    context.CHANNELS = 512
    # Pixels of the image per cell of the map that enters it, along each axis: COMMON_STRIDE, or
    # that times a power of 2, up to the stride of the coarsest of IN_FEATURES.
    context.STRIDE = 4
    # Where the layer needs regions, this part of MODEL.SEM_SEG_HEAD.LOSS_WEIGHT (0.5) weighs the
    # loss on the original prediction, and the rest that on the refined one.
    context.REGION_LOSS_WEIGHT = 0.25
    # Compute the context stage again in the backward pass instead of keeping what it needs: less
    # memory, more time, the same numbers.
    context.CHECKPOINT_ACTIVATIONS = False

    cfg.WANDB = wandb = CfgNode()
    # Log a training to Weights & Biases too, which has to be installed: pip install wandb. A
    # resumed training goes on in the same run. WANDB_MODE=offline and the like are wandb's own.
    wandb.ENABLED = False
    # Project of the run.
    wandb.PROJECT = "ocr-panoptic"
    # Name of the run, "" for that of OUTPUT_DIR.
    wandb.NAME = ""

    # What models are evaluated in: "float32", or "bfloat16" through the inference path, faster on
    # hardware that multiplies in it. tools/predict.py's --dtype sets it.
    cfg.TEST.DTYPE = "float32"

    cfg.TEST.PANOPTIC = panoptic = CfgNode()
    # What counts PQ: "in_process", while predictions come, or from PNGs "hotcoco" or "panopticapi".
    # Their figures are equal.
    panoptic.COUNTER = "in_process"
    # Keep panoptic.json with its PNGs, and the table of classes. --save sets it.
    panoptic.SAVE = False
    # Processes that count from PNGs (threads of hotcoco's); 0 for one per CPU, at most 16.
    # --num-procs sets it.
    panoptic.NUM_PROCS = 0


def add_context_keys(node: CfgNode) -> None:
    """Add the keys that the schemes of CONTEXT_REGISTRY read; each reads those that it needs.

    Args:
        node: changed in place.
    """
    # Name of the scheme, "" for none.
    node.NAME = ""
    # Norm of the layer's convolutions; in a backbone also of the one, zero at the start, in front
    # of the sum. MODEL.RESNETS.NORM, which may be frozen, is the ResNet's own.
    node.NORM = "SyncBN"
    # Keep padding out of the attention.
    node.MASK_PADDING = True
    # Channels of query and key, in double_attention of what is gathered; 0 for half of the
    # input's, an eighth in criss_cross and danet.
    node.KEY_CHANNELS = 0
    # isa, self_attention and the modules made of them: channels of value, 0 for those of query and
    # key. As wide as the input in the authors' code.
    node.VALUE_CHANNELS = 0
    # The same: norm, and a ReLU, behind the transform of the result; "" for none. The authors' code
    # has both.
    node.OUTPUT_NORM = ""
    # Probability of dropping a channel of the result in training, where a scheme fuses pixels and
    # context.
    node.DROPOUT = 0.05
    # isa: stride of the global stage's groups and size of the local stage's windows, P_h and P_w.
    node.PARTITIONS = (8, 8)
    # isa: its stages in order, one or both of "global" and "local".
    node.ORDER = ("global", "local")
    # non_local: take the maxima of 2x2 keys and values.
    node.SUBSAMPLE = True
    # ppm and pyramid_oc: parts along each axis, of each scale.
    node.BINS = (1, 2, 3, 6)
    # aspp and asp_oc: rates of the dilated convolutions.
    node.RATES = (12, 24, 36)
    # double_attention: number of regions.
    node.NUM_REGIONS = 64
    # criss_cross: how often it is applied, with the same weights.
    node.RECURRENCE = 2
    # cgnl: groups of channels.
    node.GROUPS = 8
    # seg_transformer: number of layers.
    node.LAYERS = 1
    # seg_transformer: heads of each attention.
    node.HEADS = 8
