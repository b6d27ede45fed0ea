"""Losses, distillation and the discriminator against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from ssdd_decoder.adversarial import PatchDiscriminator, discriminator_loss, generator_loss
from ssdd_decoder.distill import distillation_loss, teacher_target
from ssdd_decoder.losses import (
    AlignmentHead,
    alignment_layer,
    alignment_loss,
    flow_matching_loss,
    multiscale_gradient_loss,
    patch_border_loss,
)


def test_flow_matching_loss_is_zero_at_the_truth_and_the_square_of_an_offset(draw):
    x, noise = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    assert flow_matching_loss(x - noise, x, noise).item() == 0
    assert flow_matching_loss(x - noise + 3, x, noise).item() == pytest.approx(9, rel=1e-5)


def test_flow_matching_loss_of_half_precision_is_computed_in_float32(draw):
    x, noise, v = (draw(2, 3, 8, 8, seed=seed).bfloat16() for seed in range(3))
    loss = flow_matching_loss(v, x, noise)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((v.float() - (x.float() - noise.float())).square().mean().item(), rel=1e-6)


def test_alignment_loss_is_one_minus_the_cosine(draw):
    a = draw(2, 5, 7)
    assert alignment_loss(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert alignment_loss(a, -a).item() == pytest.approx(2, abs=1e-6)
    b = draw(2, 5, 7, seed=1)
    cosines = [torch.dot(p, q) / p.norm() / q.norm() for p, q in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    assert alignment_loss(a, b).item() == pytest.approx(1 - sum(c.item() for c in cosines) / 10, abs=1e-6)
    assert torch.isfinite(alignment_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)))


def test_alignment_layer_is_the_published_one():
    assert [alignment_layer(blocks) for blocks in (2, 8, 10, 16)] == [1, 4, 4, 4]


def test_alignment_head_maps_tokens_to_features(make_decoder, draw):
    decoder = make_decoder()
    prediction = decoder.predict(draw(2, 3, 16, 24), torch.ones(1), decoder.condition(draw(2, 4, 2, 3)), token_layer=1)
    assert prediction.tokens.shape == (2, 8, 12, decoder.config.widths[-1])
    head = AlignmentHead(decoder.config.widths[-1], feature_width=10)
    loss = alignment_loss(head(prediction.tokens), draw(2, 96, 10))
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())
    assert decoder.mid_block.transformer_blocks[1].ff.proj_out.weight.grad.abs().sum() > 0
    assert decoder.conv_out.weight.grad is None


def test_tokens_are_those_after_the_block_that_was_asked_for(make_decoder, draw):
    decoder = make_decoder()
    seen = {}
    for i, block in enumerate(decoder.mid_block.transformer_blocks):
        block.register_forward_hook(lambda _m, _i, out, i=i: seen.update({i: out}))
    arguments = draw(1, 3, 8, 8), torch.ones(1), decoder.condition(draw(1, 4, 1, 1))
    for layer in (0, 1):
        assert torch.equal(decoder.predict(*arguments, token_layer=layer).tokens, seen[layer])
    assert decoder.predict(*arguments).tokens is None


def test_multiscale_gradient_loss_in_closed_form(draw):
    x = draw(1, 3, 16, 16)
    assert multiscale_gradient_loss(x, x).item() == 0
    assert multiscale_gradient_loss(x, x + 0.5).item() == pytest.approx(0.5, rel=1e-5)  # no gradients differ
    ramp = torch.arange(16.0).expand(1, 3, 16, 16)
    expected = sum(7.5 + 2**s for s in range(3)) / 3  # mean, and steps of 1, 2, 4 along one axis
    assert multiscale_gradient_loss(torch.zeros_like(ramp), ramp).item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(multiscale_gradient_loss(x[:, :, :2, :3], x[:, :, 1:3, :3]))


@pytest.mark.parametrize("loss", [alignment_loss, multiscale_gradient_loss, lambda a, b: flow_matching_loss(a, a, b)])
def test_shapes_that_differ_are_named(draw, loss):
    with pytest.raises(ValueError, match="expected tensors of one shape"):
        loss(draw(2, 3, 4, 4), draw(1, 3, 4, 4))
    with pytest.raises(ValueError, match="at least 2 x 2"):
        multiscale_gradient_loss(draw(1, 3, 1, 4), draw(1, 3, 1, 4))


def test_distillation_target_is_the_teachers_image_and_loss_its_distance(make_decoder, draw):
    teacher, student = make_decoder(seed=0).double(), make_decoder(seed=1).double()
    z, noise = draw(2, 4, 2, 2, dtype=torch.float64), draw(2, 3, 16, 16, seed=1, dtype=torch.float64)
    target = teacher_target(teacher, z, noise, steps=3)
    assert torch.equal(target, teacher.decode(z, steps=3, noise=noise))
    assert not target.requires_grad
    prediction = distillation_loss(student, z, noise, target, token_layer=0)
    torch.testing.assert_close(prediction.image.detach(), student.decode(z, steps=1, noise=noise), atol=1e-10, rtol=0)
    assert prediction.loss.item() == pytest.approx((prediction.image - target).square().mean().item(), rel=1e-9)
    assert prediction.tokens.shape[:3] == (2, 8, 8)
    prediction.loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.conv_in.weight.grad.abs().sum() > 0


def test_student_learns_its_teachers_image(make_decoder, draw):
    teacher, student = make_decoder(seed=0), make_decoder(seed=1)
    z, noise = draw(1, 4, 1, 2), draw(1, 3, 8, 16, seed=1)
    target = teacher_target(teacher, z, noise, steps=8)
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = distillation_loss(student, z, noise, target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_adversarial_losses_in_closed_form():
    zero = torch.zeros(4)
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    assert discriminator_loss(zero, zero).item() == pytest.approx(math.log(2))
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    expected = -0.5 * (real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    assert discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    assert generator_loss(fake.half()).dtype == torch.float32


def test_discriminator_is_the_published_one():
    discriminator = PatchDiscriminator()
    kernels = [tuple(layer.conv.weight.shape) for layer in discriminator.layers]
    assert kernels == [(64, 6, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4)]
    assert PatchDiscriminator()(torch.zeros(2, 3, 16, 32), torch.zeros(2, 3, 16, 32), torch.zeros(2)).shape == (2,)


def test_discriminator_sees_clamped_images_and_the_time(draw):
    discriminator = PatchDiscriminator(channels=32, layers=2).eval()
    x, x_t = 3 * draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    t = torch.tensor([0.2, 0.7])
    assert torch.equal(discriminator(x, x_t, t), discriminator(x.clamp(-1, 1), x_t, t))
    assert not torch.equal(discriminator(x, x_t, t), discriminator(x, x_t, t.flip(0)))
    assert not torch.equal(discriminator(x, x_t, t), discriminator(x, x, t))


def test_spectral_norm_holds(draw):
    discriminator = PatchDiscriminator(channels=32, layers=2)
    for _ in range(30):  # power iterations, one per call while training
        discriminator(draw(1, 3, 8, 8), draw(1, 3, 8, 8), torch.ones(1))
    for layer in discriminator.layers:
        assert torch.linalg.matrix_norm(layer.conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_discriminator_learns_to_tell_apart_and_teaches(draw):
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=32, layers=3)
    real, fake = 0.3 * draw(8, 3, 16, 16), F.avg_pool2d(draw(8, 3, 18, 18, seed=1), 3, stride=1)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    noisy, t = draw(8, 3, 16, 16, seed=2), torch.full((8,), 0.5)
    for _ in range(60):
        loss = discriminator_loss(discriminator(real, noisy, t), discriminator(fake, noisy, t))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())
    fake.requires_grad_(True)
    generator_loss(discriminator(fake, noisy, t)).backward()
    assert fake.grad.abs().sum() > 0


@pytest.mark.parametrize("shapes", [((1, 3, 8, 8), (1, 3, 8, 8)), ((2, 3, 16, 16), (1, 3, 16, 16)), ((3, 16, 16),) * 2])
def test_discriminator_names_wrong_images(shapes):
    with pytest.raises(ValueError, match="expected images and noisy images of one shape"):
        PatchDiscriminator(channels=32)(*(torch.zeros(shape) for shape in shapes), torch.zeros(1))


def test_border_loss_counts_steps_across_patch_borders_alone():
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert patch_border_loss(x, x, 4) == 0
    assert patch_border_loss(x, x + 0.5, 4) < 1e-6  # a constant error has no steps
    grid = torch.arange(6).repeat_interleave(4) % 2  # columns of patches, alternately 0 and 1
    torch.testing.assert_close(
        patch_border_loss(x, x + 0.2 * grid, 4), torch.tensor(0.1)
    )  # every step across, none down
    inside = (torch.arange(24) % 4 == 1).float()
    assert patch_border_loss(x, x + inside, 4) < 1e-6
