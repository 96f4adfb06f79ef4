//! Event files that TensorBoard reads: scalars, attention maps as images, translations as text.
//!
//! ```text
//! record    length       u64, little endian      an event, encoded as a protocol buffer
//!           its check    u32                     masked CRC-32C of the eight bytes
//!           event        `length` bytes
//!           its check    u32                     masked CRC-32C of the event
//! event     wall time 1, step 2, first of a file: version 3 = "brain.Event:2", else a summary 5 of values
//! value     tag 1, metadata 9, and: scalar 2, or image 4, or tensor 8 (text is a tensor of strings)
//! ```
//!
//! The framing is TensorFlow's `record_writer`, the numbers of fields are those of its `event.proto`, `summary.proto` and
//! `tensor.proto`. Only the fields that are written here are declared.

use super::{Recorder, Report};
use crate::{Error, Result, Step};
use attentia_picture::HeatMap;
use prost::Message;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The name must hold `tfevents`, or TensorBoard does not look into the file.
pub const EVENTS: &str = "events.out.tfevents.attentia";

/// Greatest event that is read back, in bytes: a map of a long sentence stays far below.
const LARGEST: u64 = 1 << 26;

/// Largest map that is drawn: 256 tokens by 256.
const MOST_CELLS: usize = 1 << 16;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TextTensor>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 4: red, green, blue and alpha.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    png: Vec<u8>,
}

/// A tensor of rank 1 that holds strings.
#[derive(Clone, PartialEq, Message)]
struct TextTensor {
    /// 7: strings.
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    strings: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
}

#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
}

/// Writes an event file.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    out: BufWriter<File>,
}

impl TensorBoard {
    /// Opens or creates the event file of a folder.
    pub fn open(folder: impl AsRef<Path>) -> Result<TensorBoard> {
        let path = folder.as_ref().join(EVENTS);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| attentia_file::Error::Write { path: path.clone(), source })?;
        Ok(TensorBoard { path, out: BufWriter::new(file) })
    }

    fn refuse(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| attentia_file::Error::Write { path: path.clone(), source }.into()
    }

    fn write(&mut self, step: u64, values: Vec<SummaryValue>) -> Result<()> {
        let refuse = self.refuse();
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let summary = Some(Summary { value: values });
        frame(&mut self.out, &Event { wall_time: now(), step, file_version: None, summary }).map_err(refuse)
    }

    /// Where the events up to this step end. A record that is cut or damaged is of no step.
    fn end_of(&self, step: u64) -> io::Result<u64> {
        let mut file = self.out.get_ref();
        let size = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let (mut reader, mut end) = (BufReader::new(file), 0);
        while let Some((event, length)) = unframe(&mut reader, size - end)? {
            if event.step > i64::try_from(step).unwrap_or(i64::MAX) {
                break;
            }
            end += length;
        }
        Ok(end)
    }
}

impl Recorder for TensorBoard {
    fn begin(&mut self, step: u64) -> Result<()> {
        let refuse = self.refuse();
        // A new run begins with a new file, version first.
        let end = if step == 0 { 0 } else { self.end_of(step).map_err(&refuse)? };
        let cut = self.out.get_ref().set_len(end).and_then(|()| self.out.get_ref().seek(SeekFrom::Start(end)));
        cut.map_err(&refuse)?;
        if end == 0 {
            let version = Some("brain.Event:2".to_owned());
            let event = Event { wall_time: now(), step: 0, file_version: version, summary: None };
            frame(&mut self.out, &event).map_err(refuse)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let values = [
            ("train/loss", step.loss),
            ("train/learning_rate", step.learning_rate),
            ("train/gradient_norm", step.gradient_norm),
            ("train/tokens_per_second", step.tokens_per_second()),
        ];
        self.write(step.step, values.map(|(tag, value)| scalar(tag, value)).into())
    }

    /// The step has no values.
    fn skipped(&mut self, _step: u64) -> Result<()> {
        Ok(())
    }

    fn validation(&mut self, report: &Report) -> Result<()> {
        let mut values =
            vec![scalar("valid/loss", report.validation.loss), scalar("valid/accuracy", report.validation.accuracy)];
        for (number, sample) in report.samples.iter().enumerate() {
            let (source, reference, written) = (&sample.source, &sample.reference, &sample.translation);
            values.push(text(&format!("samples/{number}"), &[source, reference, written]));
            let map = &sample.attention;
            // A sentence that is too long for a picture is no reason to stop a training.
            if map.weights.len() <= MOST_CELLS {
                let picture = HeatMap::new(&map.weights, &map.target, &map.source)?.row_axis("written");
                let picture = picture.column_axis("read").title(written.as_str());
                values.push(image(&format!("attention/{number}"), picture.to_png(1.0)?));
            }
        }
        self.write(report.step, values)
    }

    fn flush(&mut self) -> Result<()> {
        let refuse = self.refuse();
        self.out.flush().and_then(|()| self.out.get_ref().sync_data()).map_err(refuse)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn scalar(tag: &str, value: f64) -> SummaryValue {
    SummaryValue { tag: tag.to_owned(), simple_value: Some(value as f32), ..SummaryValue::default() }
}

/// Paragraphs; TensorBoard reads them as Markdown, so what means something there is escaped.
fn text(tag: &str, paragraphs: &[&str]) -> SummaryValue {
    let escape = |text: &str| {
        text.chars().flat_map(|c| c.is_ascii_punctuation().then_some('\\').into_iter().chain([c])).collect::<String>()
    };
    let joined = paragraphs.iter().map(|paragraph| escape(paragraph)).collect::<Vec<_>>().join("\n\n");
    let shape = TensorShape { dim: vec![Dim { size: 1 }] };
    let tensor = TextTensor { dtype: 7, shape: Some(shape), strings: vec![joined.into_bytes()] };
    let plugin = Plugin { name: "text".to_owned() };
    let metadata = Some(Metadata { plugin: Some(plugin) });
    SummaryValue { tag: tag.to_owned(), tensor: Some(tensor), metadata, ..SummaryValue::default() }
}

/// Width and height stand in a PNG's first chunk, at bytes 16 and 20.
fn image(tag: &str, png: Vec<u8>) -> SummaryValue {
    let number = |at: usize| png.get(at..at + 4).map_or(0, |bytes| bytes.iter().fold(0, |n, &b| n << 8 | i32::from(b)));
    let image = Image { width: number(16), height: number(20), colorspace: 4, png };
    SummaryValue { tag: tag.to_owned(), image: Some(image), ..SummaryValue::default() }
}

/// TensorFlow turns and shifts a checksum, so that one of data that hold checksums is no special case.
fn check(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

fn frame(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let event = event.encode_to_vec();
    let length = (event.len() as u64).to_le_bytes();
    out.write_all(&[&length[..], &check(&length), &event, &check(&event)].concat())
}

/// The next event and the bytes of its record, or `None` at the end and where a record is not whole. `left` bytes are
/// there at most.
fn unframe(from: &mut impl Read, left: u64) -> io::Result<Option<(Event, u64)>> {
    let (mut length, mut of_length) = ([0; 8], [0; 4]);
    if left < 16 {
        return Ok(None);
    }
    from.read_exact(&mut length)?;
    from.read_exact(&mut of_length)?;
    let count = u64::from_le_bytes(length);
    if of_length != check(&length) || count > LARGEST || count + 16 > left {
        return Ok(None);
    }
    let (mut event, mut of_event) = (vec![0; count as usize], [0; 4]);
    from.read_exact(&mut event)?;
    from.read_exact(&mut of_event)?;
    let whole = of_event == check(&event);
    Ok(Event::decode(&event[..]).ok().filter(|_| whole).map(|event| (event, count + 16)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttentionMap, Sample, Validation};
    use std::time::Duration;

    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while let Some((event, _)) = {
            let left = rest.len() as u64;
            unframe(&mut rest, left).unwrap()
        } {
            events.push(event);
        }
        assert!(rest.is_empty(), "{} bytes are no event", rest.len());
        events
    }

    fn step(step: u64) -> Step {
        let elapsed = Duration::from_millis(5);
        Step { step, loss: 2.5, learning_rate: 0.1, gradient_norm: 1.0, tokens: 100, elapsed }
    }

    fn report(step: u64) -> Report {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (source, translation) = ("Close the *window*.".to_owned(), "Schließen Sie.".to_owned());
        let attention = AttentionMap {
            source: words(&source),
            target: words(&translation),
            weights: vec![0.2, 0.3, 0.5, 1.0, 0.0, 0.0],
        };
        let sample = Sample { source, reference: "Fenster schließen.".to_owned(), translation, attention };
        let validation = Validation { loss: 3.0, accuracy: 0.25 };
        Report { step, epoch: 1, validation, best: true, samples: vec![sample] }
    }

    #[test]
    fn what_is_behind_the_checkpoint_goes_and_the_version_stays_first() {
        let folder = std::env::temp_dir().join(format!("attentia-events-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut board = TensorBoard::open(&folder).unwrap();
        board.begin(0).unwrap();
        for number in 1..=6 {
            board.step(&step(number)).unwrap();
        }
        board.validation(&report(6)).unwrap();
        board.flush().unwrap();
        let path = folder.join(EVENTS);
        assert_eq!(events(&path).len(), 8);
        drop(board);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();

        let mut board = TensorBoard::open(&folder).unwrap();
        board.begin(4).unwrap();
        board.step(&step(5)).unwrap();
        board.flush().unwrap();
        let written = events(&path);
        assert_eq!(written.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(written[0].file_version.as_deref(), Some("brain.Event:2"));

        // Where the damaged record was the last of all, the run goes on from before it.
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut board = TensorBoard::open(&folder).unwrap();
        board.begin(6).unwrap();
        board.flush().unwrap();
        assert_eq!(events(&path).len(), 7);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
