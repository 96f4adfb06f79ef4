//! TensorBoard itself reads what a run writes.

use crate::setting::{Folder, SMALL, python_with, succeed, text};

#[test]
fn tensorboard_reads_every_kind_of_event() {
    let folder = Folder::new("tensorboard");
    let run = folder.text("run");
    succeed(&[&["quickstart", "--out", &run, "--test-pairs", "4"], SMALL].concat());
    let Some(mut python) = python_with("tensorboard") else { return };
    let script = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'images': 0, 'tensors': 0})
events.Reload()
tags = events.Tags()
image = events.Images('attention/0')[-1]
print(json.dumps({
    'scalars': {tag: len(events.Scalars(tag)) for tag in tags['scalars']},
    'last': events.Scalars('train/loss')[-1].step,
    'image': [image.width, image.height, image.encoded_image_string[:4].hex()],
    'text': events.Tensors('samples/0')[-1].tensor_proto.string_val[0].decode(),
}))";
    let output = python.args(["-c", script, &run]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for tag in ["train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"] {
        assert_eq!(read["scalars"][tag], 40, "{tag}: {read}");
    }
    for tag in ["valid/loss", "valid/accuracy"] {
        assert_eq!(read["scalars"][tag], 3, "{tag}: {read}");
    }
    assert_eq!((&read["last"], &read["image"][2]), (&40.into(), &"89504e47".into()));
    assert!(read["image"][0].as_u64() > Some(50) && read["image"][1].as_u64() > Some(50), "{read}");
    assert!(!read["text"].as_str().unwrap().is_empty());
}
