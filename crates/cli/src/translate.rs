//! `attentia translate`: one sentence, and the picture of where its translation looked.

use crate::Machine;
use anyhow::{Context, Result, anyhow};
use attentia::{
    file::write_atomic,
    picture::HeatMap,
    train::{AttentionMap, Translator},
};
use std::{io::Write, path::Path};

pub(crate) fn run(machine: &Machine, checkpoint: &Path, text: &str, svg: Option<&Path>) -> Result<()> {
    let bytes = std::fs::read(checkpoint).map_err(|cause| {
        let path = checkpoint.display();
        anyhow!("cannot read the checkpoint {path}: {cause}\n  help: `attentia quickstart` writes one")
    })?;
    let translator = Translator::from_bytes(&bytes, &machine.device()?)
        .with_context(|| format!("{} is not usable", checkpoint.display()))?;
    let (translation, map) = translator.attend(text, last_layer(&translator))?;
    writeln!(std::io::stdout(), "{translation}")?;
    if let Some(path) = svg {
        write_atomic(path, draw(&map, text)?.as_bytes())?;
        eprintln!("attention map: {}", path.display());
    }
    Ok(())
}

/// The decoder's last layer, whose attention follows the words most closely.
pub(crate) fn last_layer(translator: &Translator) -> u16 {
    // A configuration has 1 to 1024 layers.
    u16::try_from(translator.model().config().decoder_layers.saturating_sub(1)).unwrap_or(u16::MAX)
}

/// The map as a picture: a row for each written token, a column for each read one.
pub(crate) fn draw(map: &AttentionMap, title: &str) -> Result<String> {
    Ok(HeatMap::new(&map.weights, &map.target, &map.source)?
        .title(title)
        .row_axis("written")
        .column_axis("read")
        .to_svg())
}
