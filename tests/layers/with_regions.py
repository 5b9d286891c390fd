"""Schemes that take regions, in the form that the shared checks of layers call them in."""

import torch
from torch import nn

__all__ = ["WithRegions", "one_hot_and_an_absent_class"]


class WithRegions(nn.Module):
    """A scheme whose last input channels are the region logits, three times as large.

    So that some classes are sure of some positions.
    """

    def __init__(self, layer, num_regions, form="forward", prepare=None):
        super().__init__()
        self.layer = layer
        self.num_regions = num_regions
        self.form = form
        self.prepare = prepare or (lambda logits: 3 * logits)

    def split(self, feats):
        """Return pixels and what the scheme gets as region logits."""
        widths = [feats.shape[1] - self.num_regions, self.num_regions]
        pixels, logits = feats.split(widths, dim=1)
        return pixels, self.prepare(logits)

    def forward(self, feats, *, padding_mask=None):
        pixels, logits = self.split(feats)
        form = getattr(self.layer, self.form)
        return form(pixels, region_logits=logits, padding_mask=padding_mask)

    def reference(self, function, **kwargs):
        """Return what assert_equals_reference calls, of function(wanted, pixels, logits, padding).

        Args:
            function: gets the wanted positions, a list of C numbers for each position, a list of K
                numbers for each position, and a boolean for each position.
            **kwargs: more of its arguments.
        """

        def compute(wanted, rows, padding):
            columns = torch.tensor(rows, dtype=torch.float64).t()[None, :, None]
            parts = (part[0, :, 0].t().tolist() for part in self.split(columns))
            return function(wanted, *parts, padding, **kwargs)

        return compute


def one_hot_and_an_absent_class(logits):
    """Make true labels of any numbers: none where all are negative, and no last class at all."""
    largest = logits.amax(dim=1, keepdim=True)
    maps = (logits == largest) & (largest > 0)
    return torch.cat([maps, torch.zeros_like(maps[:, :1])], dim=1).to(logits.dtype)
