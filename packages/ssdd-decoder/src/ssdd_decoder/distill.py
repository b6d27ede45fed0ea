"""Distillation: a student learns to reach in one step the image that its teacher reaches in several.

    teacher:  x_T = K Euler steps from eps, given z
    student:  v = F(eps, t = 1, z);   loss = mean (v - (x_T - eps))^2
The student starts from the teacher's weights and gets the SAME z and eps.
"""

# B batch, H W pixels

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdd_decoder.decoder import Decoder
from ssdd_decoder.flow import predict_clean
from ssdd_decoder.losses import flow_matching_loss


@dataclass(frozen=True)
class StudentStep:
    """The student's one step on a batch.

    Args:
        loss: scalar, flow matching at t = 1 against the teacher's image.
        image: (B, 3, H, W), the student's one-step image.
        tokens: (B, N_y, N_x, D), or None if no layer was requested.
    """

    loss: Tensor
    image: Tensor
    tokens: Tensor | None


def teacher_target(teacher: Decoder, z: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Follows the teacher's flow to its end: (B, 3, H, W), without gradient.

    Args:
        teacher: a frozen decoder.
        z: (B, C, h, w), the clean images' latents.
        noise: (B, 3, H, W), eps.
        steps: K, Euler steps on the sampler's grid; 7 as published.
    """
    return teacher.decode(z, steps=steps, noise=noise)


def distillation_loss(
    student: Decoder, z: Tensor, noise: Tensor, target: Tensor, token_layer: int | None = None
) -> StudentStep:
    """Takes the student's one step at t = 1, with its flow-matching loss against the teacher's image.

    Args:
        student: the decoder that trains.
        z: (B, C, h, w), as the teacher got it.
        noise: (B, 3, H, W), as the teacher got it: another noise would lead to another image.
        target: (B, 3, H, W), from `teacher_target`.
        token_layer: index of the transformer block after which tokens are also returned.
    """
    # One time for all images, so that its embedding is computed only once.
    t = torch.ones(1, device=noise.device, dtype=noise.dtype)
    prediction = student.predict(noise, t, student.condition(z), token_layer)
    image = predict_clean(noise, prediction.velocity, t)
    return StudentStep(flow_matching_loss(prediction.velocity, target, noise), image, prediction.tokens)
