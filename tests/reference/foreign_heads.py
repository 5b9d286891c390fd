"""OCR and ISA heads as other projects have them: their names, their order, their norms.

Written from what is published of them, for their names and for what they compute: openseg.pytorch
(with convolution biases in OCR, a norm and a ReLU behind every output, InPlaceABN where asked) and
mmsegmentation (values with a bias, the context in front of the pixels). Both pad maps with zeros at
both sides, and let them join.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["MmsegISA", "MmsegOCR", "OpensegISA", "OpensegOCR", "shake"]


class InPlaceABN(nn.BatchNorm2d):
    """BatchNorm whose weight counts by its absolute value, and an activation."""

    slope = 0.01

    def forward(self, x):
        weight = self.weight.abs() + self.eps
        x = F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, eps=self.eps)
        return F.leaky_relu(x, self.slope)


def bn_relu(channels, abn=False):
    return InPlaceABN(channels) if abn else nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def transforms(channels, depth=1, *, kernel=1, bias, abn=False):
    """Return convolution, norm, convolution, norm, ... of openseg: ``channels`` are (in, out)."""
    layers = []
    for index in range(depth):
        read = channels[0] if index == 0 else channels[1]
        layers.append(nn.Conv2d(read, channels[1], kernel, padding=kernel // 2, bias=bias))
        layers.append(bn_relu(channels[1], abn))
    return nn.Sequential(*layers)


class ConvModule(nn.Module):
    """Convolution, norm and ReLU under one name, as in mmsegmentation."""

    def __init__(self, read, write, kernel=1):
        super().__init__()
        self.conv = nn.Conv2d(read, write, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(write)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


def look(query, key, value):
    """Attend; maps of any height and width, the result has the query's."""
    weights = torch.einsum("ncl,ncs->nls", query.flatten(2), key.flatten(2))
    weights = (weights / math.sqrt(query.shape[1])).softmax(dim=2)
    mixed = torch.einsum("nls,ncs->ncl", weights, value.flatten(2))
    return mixed.unflatten(2, query.shape[2:])


def gather(feats, logits):
    """Return a vector for each class, (N, C, K, 1), averaged with a softmax over positions."""
    weights = logits.flatten(2).softmax(dim=2)
    return torch.einsum("nkl,ncl->nck", weights, feats.flatten(2)).unsqueeze(3)


def interlaced(x, factors, far, near):
    """Apply ``far`` to positions ``factors`` apart, then ``near`` to windows of that size."""
    height, width = x.shape[2:]
    rows, columns = factors
    more = (-height % rows, -width % columns)
    top, left = more[0] // 2, more[1] // 2
    x = F.pad(x, (left, more[1] - left, top, more[0] - top))
    x = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # N C far_h near_h far_w near_w
    batch, _, far_h, _, far_w, _ = x.shape
    x = far(x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2))
    x = x.unflatten(0, (batch, rows, columns)).permute(0, 4, 5, 3, 1, 2).flatten(0, 2)
    x = near(x).unflatten(0, (batch, far_h, far_w)).permute(0, 3, 1, 4, 2, 5)
    x = x.flatten(4, 5).flatten(2, 3)
    return x[:, :, top : top + height, left : left + width]


class _ObjectContext(nn.Module):
    def __init__(self, width, keys, abn):
        super().__init__()
        self.f_pixel = transforms((width, keys), 2, bias=True, abn=abn)
        self.f_object = transforms((width, keys), 2, bias=True, abn=abn)
        self.f_down = transforms((width, keys), bias=True, abn=abn)
        self.f_up = transforms((keys, width), bias=True, abn=abn)

    def forward(self, x, regions):
        mixed = look(self.f_pixel(x), self.f_object(regions), self.f_down(regions))
        return self.f_up(mixed)


class _SpatialOCR(nn.Module):
    def __init__(self, width, keys, abn):
        super().__init__()
        self.object_context_block = _ObjectContext(width, keys, abn)
        self.conv_bn_dropout = transforms((2 * width, width), bias=True, abn=abn)

    def forward(self, x, regions):
        return self.conv_bn_dropout(torch.cat([self.object_context_block(x, regions), x], dim=1))


class OpensegOCR(nn.Module):
    """openseg.pytorch's SpatialOCRNet without its backbone; ``names`` are those of its parts."""

    OCRNET = ("conv_3x3", "spatial_ocr_head", "head", "dsn_head")
    HRNET = ("conv3x3", "ocr_distri_head", "cls_head", "aux_head")
    HRNET_OCR = ("conv3x3_ocr", *HRNET[1:])

    def __init__(self, read, width, keys, classes, *, names=OCRNET, abn=False):
        super().__init__()
        self.names = names
        before, block, behind, regions = names
        self.add_module(before, transforms((read, width), kernel=3, bias=True, abn=abn))
        self.add_module(block, _SpatialOCR(width, keys, abn))
        self.add_module(behind, nn.Conv2d(width, classes, 1))
        self.add_module(
            regions,
            nn.Sequential(
                *transforms((read, width), kernel=3, bias=True, abn=abn),
                nn.Dropout2d(0.05),
                nn.Conv2d(width, classes, 1),
            ),
        )

    def forward(self, x, logits):
        before, block, behind, _ = (getattr(self, name) for name in self.names)
        x = before(x)
        return behind(block(x, gather(x, logits)))


class _SelfAttention(nn.Module):
    def __init__(self, width, keys, values):
        super().__init__()
        self.f_key = transforms((width, keys), 2, bias=False)
        self.f_query = transforms((width, keys), 2, bias=False)
        self.f_value = nn.Conv2d(width, values, 1, bias=False)
        self.W = transforms((values, width), bias=False)

    def forward(self, x):
        return self.W(look(self.f_query(x), self.f_key(x), self.f_value(x)))


class _ISABlock(nn.Module):
    def __init__(self, width, keys, values, factors):
        super().__init__()
        self.factors = factors
        self.long_range_sa = _SelfAttention(width, keys, values)
        self.short_range_sa = _SelfAttention(width, keys, values)

    def forward(self, x):
        return interlaced(x, self.factors, self.long_range_sa, self.short_range_sa)


class _ISAModule(nn.Module):
    def __init__(self, width, keys, values, factors):
        super().__init__()
        self.stages = nn.ModuleList([_ISABlock(width, keys, values, factors)])
        self.conv_bn = transforms((2 * width, width), bias=False)

    def forward(self, x):
        return self.conv_bn(torch.cat([x, self.stages[0](x)], dim=1))


class OpensegISA(nn.Module):
    """openseg.pytorch's ISANet without its backbone."""

    def __init__(self, read, width, keys, values, classes, factors):
        super().__init__()
        self.isa_head = nn.Sequential(
            *transforms((read, width), kernel=3, bias=True),
            _ISAModule(width, keys, values, factors),
        )
        self.cls_head = nn.Conv2d(width, classes, 1)
        self.dsn_head = nn.Sequential(
            *transforms((read, width), kernel=3, bias=True),
            nn.Dropout2d(0.05),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x):
        return self.cls_head(self.isa_head(x))


class _ObjectAttention(nn.Module):
    def __init__(self, width, keys):
        super().__init__()
        self.key_project = nn.Sequential(ConvModule(width, keys), ConvModule(keys, keys))
        self.query_project = nn.Sequential(ConvModule(width, keys), ConvModule(keys, keys))
        self.value_project = ConvModule(width, keys)
        self.out_project = ConvModule(keys, width)
        self.bottleneck = ConvModule(2 * width, width)

    def forward(self, x, regions):
        mixed = look(self.query_project(x), self.key_project(regions), self.value_project(regions))
        return self.bottleneck(torch.cat([self.out_project(mixed), x], dim=1))


class _OCRHead(nn.Module):
    def __init__(self, read, width, keys, classes):
        super().__init__()
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.object_context_block = _ObjectAttention(width, keys)
        self.bottleneck = ConvModule(read, width, 3)

    def forward(self, x, logits):
        x = self.bottleneck(x)
        return self.conv_seg(self.object_context_block(x, gather(x, logits)))


class _FCNHead(nn.Module):
    def __init__(self, read, width, classes):
        super().__init__()
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.convs = nn.Sequential(ConvModule(read, width, 3))


class MmsegOCR(nn.Module):
    """mmsegmentation's cascade of FCNHead and OCRHead, without its backbone."""

    def __init__(self, read, width, keys, classes):
        super().__init__()
        self.decode_head = nn.ModuleList(
            [_FCNHead(read, width, classes), _OCRHead(read, width, keys, classes)]
        )

    def forward(self, x, logits):
        return self.decode_head[1](x, logits)


class _Relation(nn.Module):
    def __init__(self, width, keys):
        super().__init__()
        self.key_project = nn.Sequential(ConvModule(width, keys), ConvModule(keys, keys))
        self.query_project = nn.Sequential(ConvModule(width, keys), ConvModule(keys, keys))
        self.value_project = nn.Conv2d(width, width, 1)
        self.output_project = ConvModule(width, width)

    def forward(self, x):
        mixed = look(self.query_project(x), self.key_project(x), self.value_project(x))
        return self.output_project(mixed)


class _ISAHead(nn.Module):
    def __init__(self, read, width, keys, classes, factors):
        super().__init__()
        self.factors = factors
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.in_conv = ConvModule(read, width, 3)
        self.global_relation = _Relation(width, keys)
        self.local_relation = _Relation(width, keys)
        self.out_conv = ConvModule(2 * width, width)

    def forward(self, x):
        x = self.in_conv(x)
        context = interlaced(x, self.factors, self.global_relation, self.local_relation)
        return self.conv_seg(self.out_conv(torch.cat([context, x], dim=1)))


class MmsegISA(nn.Module):
    """mmsegmentation's ISAHead and its auxiliary FCNHead, without its backbone."""

    def __init__(self, read, width, keys, classes, factors):
        super().__init__()
        self.decode_head = _ISAHead(read, width, keys, classes, factors)
        self.auxiliary_head = _FCNHead(read, width, classes)

    def forward(self, x):
        return self.decode_head(x)


def shake(model, seed=0):
    """Give every parameter, and every norm's statistics, values of their own; in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.dim() == 1:
            tensor.normal_(0, 1, generator=generator)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
    return model
