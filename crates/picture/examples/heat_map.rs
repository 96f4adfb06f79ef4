//! Prints a made-up alignment of a German sentence with an English one:
//! `cargo run -p attentia-picture --example heat_map > map.svg`.

use attentia_picture::HeatMap;

fn main() -> attentia_picture::Result<()> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let source = words("Click the Format Cells icon , then choose a different currency . <eos>");
    let target = words("Klicken Sie auf das Symbol Zellen formatieren und wählen Sie dann eine andere Währung . <eos>");
    let aligned = [0, 0, 0, 1, 4, 3, 2, 5, 7, 7, 6, 8, 9, 10, 11, 12];

    let mut values = Vec::new();
    for at in aligned {
        let scores: Vec<f32> =
            (0..source.len()).map(|column| (-0.9 * (column as f32 - at as f32).abs()).exp()).collect();
        let sum: f32 = scores.iter().sum();
        values.extend(scores.iter().map(|score| score / sum));
    }
    let map = HeatMap::new(&values, &target, &source)?
        .title("decoder layer 3, head 0: cross-attention")
        .row_axis("target token")
        .column_axis("source token")
        .range(0.0, 1.0)?;
    print!("{}", map.to_svg());
    Ok(())
}
