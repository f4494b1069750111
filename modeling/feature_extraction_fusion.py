"""`FusionFeatureExtractor`: frames and audio of a clip to inputs of `FusionModel`, saved to the Hub with the model."""

# B clips, N frames of a clip, T frames of sound, F mel bands, S samples

import numpy as np
import torch
from transformers import BatchFeature

from .feature_extraction_audio import AudioFeatureExtractor

# dB. A spectrogram that deviates less from its mean is silence. It becomes zeros rather than amplified noise.
MIN_DEVIATION = 1e-3


class FusionFeatureExtractor(AudioFeatureExtractor):
    """Log-mel spectrograms, each scaled to mean 0 and standard deviation 1, and cropped, scaled video frames.

    The defaults for frames are those of torchvision's r3d_18, trained on Kinetics: 16 frames at 15 frames per second,
    128 x 171 pixels, center crop of 112 x 112, RGB, scaled by the mean and deviation of each color. The defaults for
    audio are 64 bands of 16 kHz audio and one spectrum every 32 ms.

    Settings in addition to those of `AudioFeatureExtractor`:
        clip_frames: frames per clip.
        video_frame_rate: frames per second, from the middle of the clip; None spreads the frames over the whole clip.
        frame_size: height and width that frames are scaled to.
        crop_size: height and width of the center crop, in pixels.
        image_mean, image_std: of red, green and blue, on a scale from 0 to 1.
        max_audio_seconds: audio after this is cut off.
    """

    model_input_names = ["pixel_values", "frame_mask", "input_features", "features_mask"]

    def __init__(
        self,
        sampling_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 512,
        num_mel_bins: int = 64,
        mel_scale: str = "htk",
        mel_norm: str | None = None,
        frame_rate: float | None = None,
        clip_frames: int = 16,
        video_frame_rate: float | None = 15.0,
        frame_size: tuple[int, int] | list[int] = (128, 171),
        crop_size: int = 112,
        image_mean: tuple[float, ...] | list[float] = (0.43216, 0.394666, 0.37645),
        image_std: tuple[float, ...] | list[float] = (0.22803, 0.22145, 0.216989),
        max_audio_seconds: float = 30.0,
        **settings: object,
    ) -> None:
        super().__init__(
            sampling_rate=sampling_rate, n_fft=n_fft, hop_length=hop_length, num_mel_bins=num_mel_bins,
            mel_scale=mel_scale, mel_norm=mel_norm, frame_rate=frame_rate, **settings,
        )  # fmt: skip
        self.clip_frames, self.video_frame_rate = clip_frames, video_frame_rate
        self.frame_size, self.crop_size = list(frame_size), crop_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.max_audio_seconds = max_audio_seconds
        self._check_video()

    def _check_video(self) -> None:
        for name in ("clip_frames", "crop_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: must be a positive integer. Give one.")
        if len(self.frame_size) != 2 or min(self.frame_size) < self.crop_size:
            raise ValueError(
                f"frame_size={self.frame_size}: must be a height and a width of at least crop_size={self.crop_size}. "
                "Give two larger numbers, or lower crop_size."
            )
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3 or not all(value > 0 for value in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: must be three numbers above 0. Give one per color.")
        if self.video_frame_rate is not None and not self.video_frame_rate > 0:
            raise ValueError(
                f"video_frame_rate={self.video_frame_rate}: must be above 0. Give frames per second, or null for the "
                "whole clip."
            )
        if not self.max_audio_seconds > 0:
            raise ValueError(f"max_audio_seconds={self.max_audio_seconds}: must be above 0. Give seconds.")

    def __call__(
        self,
        videos: list[np.ndarray | None] | np.ndarray | None = None,
        audio: list[np.ndarray | None] | np.ndarray | None = None,
        sampling_rate: int | None = None,
        frame_masks: list[np.ndarray | None] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Compute features of a batch of clips.

        Args:
            videos: frames (N, height, width, 3) of each clip, uint8 RGB of `frame_size` or larger; or one clip. A clip
                without video is None in the list.
            audio: mono audio (S,) of each clip, floats; or one clip. A clip without audio is None in the list.
            sampling_rate: Hz of the audio. Must be that of the extractor.
            frame_masks: (N,) of each clip, False for a frame that repeats another. By default all are real.

        Returns:
            `pixel_values` (B, 3, N, crop, crop) with `frame_mask` (B, N), and `input_features` (B, T, F) with
            `features_mask` (B, T). Masks are 0 for a clip without video or audio.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: not supported. Give 'pt'.")
        batch: dict[str, torch.Tensor] = {}
        if videos is not None:
            clips = [videos] if isinstance(videos, np.ndarray) and videos.ndim == 4 else list(videos)
            batch["pixel_values"] = torch.stack([self.pixels(clip, index) for index, clip in enumerate(clips)])
            masks = frame_masks or [None] * len(clips)
            batch["frame_mask"] = torch.stack(
                [self.frame_mask(clip, mask) for clip, mask in zip(clips, masks, strict=True)]
            )
        if audio is not None:
            clips = [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list(audio)
            batch |= self.spectrograms(clips, sampling_rate)
        if not batch:
            raise ValueError("videos=None, audio=None: no input. Give at least one of them.")
        return BatchFeature(batch)

    def pixels(self, frames: np.ndarray | None, index: int = 0) -> torch.Tensor:
        """Crop and scale frames (N, height, width, 3) to (3, N, crop, crop). None gives zeros."""
        crop = self.crop_size
        if frames is None:
            return torch.zeros(3, self.clip_frames, crop, crop)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != self.clip_frames:
            raise ValueError(
                f"clip {index}: frames have dtype {frames.dtype} and shape {frames.shape}. Give uint8 RGB of shape "
                f"({self.clip_frames}, height, width, 3)."
            )
        height, width = frames.shape[1:3]
        if min(height, width) < crop:
            raise ValueError(
                f"clip {index}: frames of {height} x {width} are smaller than crop_size={crop}. Scale them up."
            )
        top, left = round((height - crop) / 2), round((width - crop) / 2)  # rounded as in torchvision's CenterCrop
        middle = torch.from_numpy(np.ascontiguousarray(frames[:, top : top + crop, left : left + crop]))
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        return ((middle.float() / 255 - mean) / std).permute(3, 0, 1, 2).contiguous()

    def frame_mask(self, frames: np.ndarray | None, mask: np.ndarray | None) -> torch.Tensor:
        """Return (N,) int64, 1 for a real frame."""
        if frames is None:
            return torch.zeros(self.clip_frames, dtype=torch.long)
        mask = np.ones(self.clip_frames, bool) if mask is None else np.asarray(mask)
        return torch.from_numpy(mask.astype(np.int64))

    def spectrograms(self, clips: list[np.ndarray | None], sampling_rate: int | None) -> dict[str, torch.Tensor]:
        """Return normalized log-mel (B, T, F) and mask (B, T); both are 0 for a clip without audio."""
        max_samples = int(self.max_audio_seconds * self.sampling_rate)
        with_audio = [index for index, clip in enumerate(clips) if clip is not None and len(clip)]
        if not with_audio:
            self._check_rate(sampling_rate if sampling_rate is not None else self.sampling_rate)
            features, mask = torch.zeros(len(clips), 1, self.feature_size), torch.zeros(len(clips), 1).long()
            return {"input_features": features, "features_mask": mask}
        batch = super().__call__([clips[index][:max_samples] for index in with_audio], sampling_rate)
        # (clips with audio, T, F) and (clips with audio, T, 1)
        levels, valid = batch["input_features"], batch["attention_mask"].bool().unsqueeze(-1)
        count = valid.sum((1, 2), keepdim=True) * self.feature_size
        mean = levels.sum((1, 2), keepdim=True) / count  # padding is 0
        deviation = (((levels - mean) ** 2 * valid).sum((1, 2), keepdim=True) / count).sqrt()
        silent = deviation < MIN_DEVIATION
        levels = ((levels - mean) / deviation.masked_fill(silent, 1.0)).masked_fill(~valid | silent, 0.0)
        indices = torch.tensor(with_audio)
        features = levels.new_zeros(len(clips), *levels.shape[1:]).index_copy(0, indices, levels)
        mask = torch.zeros(len(clips), levels.shape[1]).long().index_copy(0, indices, batch["attention_mask"])
        return {"input_features": features, "features_mask": mask}
