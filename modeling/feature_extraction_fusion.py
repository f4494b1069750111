"""Frames and sound of a clip to what `FusionModel` takes: `FusionFeatureExtractor`, which travels to the Hub."""

# B clips, N frames of a clip, T frames of sound, F mel bands, S samples

import numpy as np
import torch
from transformers import BatchFeature

from .feature_extraction_audio import AudioFeatureExtractor

FLATTEST = 1e-3  # dB; a spectrogram that deviates less from its mean is silence, and becomes zeros


class FusionFeatureExtractor(AudioFeatureExtractor):
    """Log-mel spectrograms, each with mean 0 and deviation 1, and cropped, scaled frames of video.

    The defaults for frames are those that torchvision's r3d_18 was trained with on Kinetics: 16 frames at 15 frames a
    second, 128 x 171 pixels cropped to 112 x 112 in the middle, RGB, its mean and deviation of each colour. Those for
    sound are 64 bands of 16 kHz sound, a spectrum each 32 ms.

    Settings beside those of `AudioFeatureExtractor`:
        clip_frames: frames of a clip.
        video_frame_rate: frames a second, taken from the middle of the clip; None spreads them over all of it.
        frame_size: height and width that frames are scaled to.
        crop_size: height and width in pixels of the middle that is kept.
        image_mean, image_std: of red, green and blue, on a scale from 0 to 1.
        max_audio_seconds: sound after this is left out.
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
        **others: object,
    ) -> None:
        super().__init__(
            sampling_rate=sampling_rate, n_fft=n_fft, hop_length=hop_length, num_mel_bins=num_mel_bins,
            mel_scale=mel_scale, mel_norm=mel_norm, frame_rate=frame_rate, **others,
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
                raise ValueError(f"{name} = {value!r}: give a whole number above 0")
        if len(self.frame_size) != 2 or min(self.frame_size) < self.crop_size:
            raise ValueError(
                f"frame_size = {self.frame_size}: give a height and a width of crop_size = {self.crop_size} or more"
            )
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3 or not all(value > 0 for value in getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: give three numbers above 0")
        if self.video_frame_rate is not None and not self.video_frame_rate > 0:
            raise ValueError(
                f"video_frame_rate = {self.video_frame_rate}: give frames a second, or null for the whole clip"
            )
        if not self.max_audio_seconds > 0:
            raise ValueError(f"max_audio_seconds = {self.max_audio_seconds}: give a number above 0")

    def __call__(
        self,
        videos: list[np.ndarray | None] | np.ndarray | None = None,
        audio: list[np.ndarray | None] | np.ndarray | None = None,
        sampling_rate: int | None = None,
        frame_masks: list[np.ndarray | None] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Features of some clips; a clip that has no picture or no sound is None there, and its mask is 0.

        Args:
            videos: frames (N, height, width, 3) of each clip, uint8 RGB of `frame_size` or larger; or one clip.
            audio: mono sound (S,) of each clip, floats; or one clip.
            sampling_rate: Hz of the sound, which must be the extractor's own.
            frame_masks: (N,) of each clip, False where a frame repeats another; all are real by default.

        Returns `pixel_values` (B, 3, N, crop, crop) with `frame_mask` (B, N), and `input_features` (B, T, F) with
        `features_mask` (B, T).
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors = {return_tensors!r}: give 'pt'")
        batch: dict[str, torch.Tensor] = {}
        if videos is not None:
            clips = [videos] if isinstance(videos, np.ndarray) and videos.ndim == 4 else list(videos)
            batch["pixel_values"] = torch.stack([self.pixels(clip, place) for place, clip in enumerate(clips)])
            masks = frame_masks or [None] * len(clips)
            batch["frame_mask"] = torch.stack(
                [self.frame_mask(clip, mask) for clip, mask in zip(clips, masks, strict=True)]
            )
        if audio is not None:
            sounds = [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list(audio)
            batch |= self.spectrograms(sounds, sampling_rate)
        if not batch:
            raise ValueError("neither videos nor audio came; give one of them")
        return BatchFeature(batch)

    def pixels(self, frames: np.ndarray | None, place: int = 0) -> torch.Tensor:
        """Frames (N, height, width, 3) as (3, N, crop, crop); zeros where there are none."""
        crop = self.crop_size
        if frames is None:
            return torch.zeros(3, self.clip_frames, crop, crop)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != self.clip_frames:
            raise ValueError(
                f"clip {place}: frames of {frames.dtype} and shape {frames.shape}; give uint8 RGB of shape "
                f"({self.clip_frames}, height, width, 3)"
            )
        height, width = frames.shape[1:3]
        if min(height, width) < crop:
            raise ValueError(
                f"clip {place}: frames of {height} x {width} are smaller than the crop of {crop}; scale them up"
            )
        top, left = round((height - crop) / 2), round((width - crop) / 2)  # as torchvision rounds
        middle = torch.from_numpy(np.ascontiguousarray(frames[:, top : top + crop, left : left + crop]))
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        return ((middle.float() / 255 - mean) / std).permute(3, 0, 1, 2).contiguous()

    def frame_mask(self, frames: np.ndarray | None, mask: np.ndarray | None) -> torch.Tensor:
        """(N,) int64: 1 where a frame is a real one."""
        if frames is None:
            return torch.zeros(self.clip_frames, dtype=torch.long)
        mask = np.ones(self.clip_frames, bool) if mask is None else np.asarray(mask)
        return torch.from_numpy(mask.astype(np.int64))

    def spectrograms(self, sounds: list[np.ndarray | None], sampling_rate: int | None) -> dict[str, torch.Tensor]:
        """Normalised log-mel (B, T, F) of some sounds and their mask (B, T); 0 where there is no sound."""
        most = int(self.max_audio_seconds * self.sampling_rate)
        heard = [place for place, sound in enumerate(sounds) if sound is not None and len(sound)]
        if not heard:
            self._check_rate(sampling_rate if sampling_rate is not None else self.sampling_rate)
            features, mask = torch.zeros(len(sounds), 1, self.feature_size), torch.zeros(len(sounds), 1).long()
            return {"input_features": features, "features_mask": mask}
        found = super().__call__([sounds[place][:most] for place in heard], sampling_rate)
        levels, valid = found["input_features"], found["attention_mask"].bool().unsqueeze(-1)  # (H, T, F), (H, T, 1)
        count = valid.sum((1, 2), keepdim=True) * self.feature_size
        mean = levels.sum((1, 2), keepdim=True) / count  # padding is 0
        deviation = (((levels - mean) ** 2 * valid).sum((1, 2), keepdim=True) / count).sqrt()
        flat = deviation < FLATTEST
        levels = ((levels - mean) / deviation.masked_fill(flat, 1.0)).masked_fill(~valid | flat, 0.0)
        place = torch.tensor(heard)
        features = levels.new_zeros(len(sounds), *levels.shape[1:]).index_copy(0, place, levels)
        mask = torch.zeros(len(sounds), levels.shape[1]).long().index_copy(0, place, found["attention_mask"])
        return {"input_features": features, "features_mask": mask}
