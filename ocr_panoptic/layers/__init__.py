"""Pure modules: tensors in, tensors out. They know no config and no registry."""

from .acf import AttentionalClassFeature
from .aspp import AtrousSpatialPyramidPooling
from .attention import attention, pointwise_transform
from .cgnl import CompactGeneralizedNonLocal
from .coarse_to_fine import LabelEnsemble, LabelRefinement
from .context_layer import ContextLayer
from .criss_cross import CrissCrossAttention
from .danet import DANet
from .double_attention import DoubleAttention
from .efficient_attention import EfficientAttention
from .ground_truth_ocr import GroundTruthOCR
from .isa import InterlacedSparseSelfAttention
from .non_local import NonLocal
from .object_context import ASPOC, BaseOC, PyramidOC
from .ocr import OCRModule
from .ocr_ablations import ACFRelationOCR, DARelationOCR, UnsupervisedOCR
from .ppm import PyramidPooling
from .region_context import RegionContext, region_representations, soft_object_regions
from .seg_transformer import SegmentationTransformer
from .self_attention import SelfAttention

__all__ = [
    "ASPOC",
    "ACFRelationOCR",
    "AtrousSpatialPyramidPooling",
    "AttentionalClassFeature",
    "BaseOC",
    "CompactGeneralizedNonLocal",
    "ContextLayer",
    "CrissCrossAttention",
    "DANet",
    "DARelationOCR",
    "DoubleAttention",
    "EfficientAttention",
    "GroundTruthOCR",
    "InterlacedSparseSelfAttention",
    "LabelEnsemble",
    "LabelRefinement",
    "NonLocal",
    "OCRModule",
    "PyramidOC",
    "PyramidPooling",
    "RegionContext",
    "SegmentationTransformer",
    "SelfAttention",
    "UnsupervisedOCR",
    "attention",
    "pointwise_transform",
    "region_representations",
    "soft_object_regions",
]
