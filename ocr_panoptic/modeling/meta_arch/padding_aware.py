"""Detectron2's PanopticFPN and GeneralizedRCNN, which also tell about their batches."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import ImageList

from ocr_panoptic.modeling.merging import combine_semantic_and_instance_outputs

from .batch import batch_scope, record_images, record_labels

__all__ = ["PaddingAwareGeneralizedRCNN", "PaddingAwarePanopticFPN"]


class _TellsImageSizes:
    """Record the image sizes of each batch for :func:`~.padding.padding_mask`.

    A mixin in front of a Detectron2 meta-architecture with ``preprocess_image``. It has no
    parameter and no buffer, so checkpoints of the plain architecture fit.
    """

    def forward(self, batched_inputs: list[dict]) -> dict | list[dict]:
        """As the architecture's own, with image sizes known to the modules inside."""
        with batch_scope():
            return super().forward(batched_inputs)

    def inference(self, *args, **kwargs) -> list:
        """As the architecture's own; also called by itself, by test-time augmentation."""
        with batch_scope():
            return super().inference(*args, **kwargs)

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, pad and batch as the architecture does, and record the sizes."""
        images = super().preprocess_image(batched_inputs)
        record_images(images)
        return images


@META_ARCH_REGISTRY.register()
class PaddingAwarePanopticFPN(_TellsImageSizes, PanopticFPN):
    """Panoptic-FPN whose heads and backbone can ask which positions are padding.

    Instances and semantic labels are merged by
    :func:`~ocr_panoptic.modeling.merging.combine_semantic_and_instance_outputs`.
    """

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, pad and batch, and record the sizes, and labels for a head that uses them."""
        images = super().preprocess_image(batched_inputs)
        labels = [inputs["sem_seg"] for inputs in batched_inputs if "sem_seg" in inputs]
        if getattr(self.sem_seg_head, "uses_ground_truth", False) and (
            len(labels) == len(batched_inputs)
        ):
            padded = ImageList.from_tensors(
                [label.to(self.device) for label in labels],
                self.backbone.size_divisibility,
                self.sem_seg_head.ignore_value,
                self.backbone.padding_constraints,
            )
            record_labels(padded.tensor)
        return images

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list | tuple:
        """As Detectron2's, without segments that have no pixels."""
        detections, semantics = super().inference(batched_inputs, do_postprocess=False)
        if not do_postprocess:
            return detections, semantics
        results = []
        for inputs, detected, semantic in zip(batched_inputs, detections, semantics, strict=True):
            resized = detected.image_size
            size = inputs.get("height", resized[0]), inputs.get("width", resized[1])
            semantic = sem_seg_postprocess(semantic, resized, *size)
            instances = detector_postprocess(detected, *size)
            panoptic = combine_semantic_and_instance_outputs(
                instances,
                semantic.argmax(dim=0),
                self.combine_overlap_thresh,
                self.combine_stuff_area_thresh,
                self.combine_instances_score_thresh,
            )
            results.append({"sem_seg": semantic, "instances": instances, "panoptic_seg": panoptic})
        return results


@META_ARCH_REGISTRY.register()
class PaddingAwareGeneralizedRCNN(_TellsImageSizes, GeneralizedRCNN):
    """GeneralizedRCNN (Mask R-CNN) whose heads and backbone can ask which positions are padding."""
