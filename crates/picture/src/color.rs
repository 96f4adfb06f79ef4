//! The colour ramp: dark violet through blue-green to yellow, computed and not copied from a table.
//!
//! Ends and middle are chosen in OKLCH (lightness, chroma, hue; Ottosson 2020, "A perceptual color space for image
//! processing"), where equal steps of a coordinate look equally large. Lightness rises linearly from 0.27 to 0.92: the
//! ramp keeps its order when printed in grey and for every kind of colour blindness. The hues are those that viridis
//! (van der Walt and Smith 2015) made familiar.

/// Violet at 0, blue-green in the middle, yellow at 1: hue in degrees.
const HUE: [f64; 2] = [308.0, 106.0];
const LIGHTNESS: [f64; 2] = [0.27, 0.92];
/// Chroma at 0, 1/2 and 1; the middle is lower because sRGB has no strong blue-green of that lightness.
const CHROMA: [f64; 3] = [0.11, 0.10, 0.18];

/// Says "not a number": a grey with a red tint that the ramp never comes near.
pub const NOT_A_NUMBER: Color = Color([244, 214, 210]);

/// An sRGB colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Color(
    /// Red, green and blue, 0 to 255.
    pub [u8; 3],
);

impl Color {
    /// The colour of a share of the scale, 0 to 1; what lies outside takes the colour of the end, NaN that of 0.
    ///
    /// ```
    /// use attentia_picture::Color;
    ///
    /// assert!(Color::of(0.2).luminance() < Color::of(0.3).luminance());
    /// assert_eq!(Color::of(7.0), Color::of(1.0));
    /// ```
    pub fn of(share: f64) -> Self {
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        let mix = |[low, high]: [f64; 2]| low + (high - low) * share;
        // A parabola through the three values.
        let [start, middle, end] = CHROMA;
        let chroma =
            start + share * (4.0 * middle - 3.0 * start - end) + share * share * 2.0 * (start + end - 2.0 * middle);
        from_oklch(mix(LIGHTNESS), chroma, mix(HUE))
    }

    /// Relative luminance, 0 (black) to 1 (white), as WCAG 2 defines it.
    pub fn luminance(self) -> f64 {
        let [red, green, blue] = self.0.map(|byte| to_linear(f64::from(byte) / 255.0));
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    /// `#rrggbb`.
    pub fn hex(self) -> String {
        let [red, green, blue] = self.0;
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

/// The matrices are Ottosson's, from OKLab to cone responses and from there to linear sRGB.
fn from_oklch(lightness: f64, chroma: f64, hue: f64) -> Color {
    let (sin, cos) = hue.to_radians().sin_cos();
    let (a, b) = (chroma * cos, chroma * sin);
    let l = (lightness + 0.3963377774 * a + 0.2158037573 * b).powi(3);
    let m = (lightness - 0.1055613458 * a - 0.0638541728 * b).powi(3);
    let s = (lightness - 0.0894841775 * a - 1.2914855480 * b).powi(3);
    let linear = [
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
    ];
    // Slightly outside sRGB at some places; the cut is too small to see.
    Color(linear.map(|x| (from_linear(x.clamp(0.0, 1.0)) * 255.0).round() as u8))
}

fn from_linear(x: f64) -> f64 {
    if x <= 0.0031308 { 12.92 * x } else { 1.055 * x.powf(1.0 / 2.4) - 0.055 }
}

fn to_linear(x: f64) -> f64 {
    if x <= 0.04045 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_gets_lighter_at_every_step() {
        let ramp: Vec<Color> = (0..=100).map(|step| Color::of(f64::from(step) / 100.0)).collect();
        assert!(ramp.windows(2).all(|pair| pair[0].luminance() < pair[1].luminance()), "{ramp:?}");
        assert!(ramp[0].luminance() < 0.04 && ramp[100].luminance() > 0.7);
        assert!(ramp.iter().all(|color| *color != NOT_A_NUMBER));
    }

    #[test]
    fn neighbours_differ_evenly() {
        // Lightness in OKLab is nearly the cube root of luminance: no step may be half or twice the mean.
        let light: Vec<f64> = (0..=20).map(|step| Color::of(f64::from(step) / 20.0).luminance().cbrt()).collect();
        let mean = (light[20] - light[0]) / 20.0;
        for pair in light.windows(2) {
            let step = (pair[1] - pair[0]) / mean;
            assert!((0.5..2.0).contains(&step), "{step}");
        }
    }

    #[test]
    fn known_colours() {
        assert_eq!(from_oklch(1.0, 0.0, 0.0).hex(), "#ffffff");
        assert_eq!(from_oklch(0.0, 0.0, 0.0).hex(), "#000000");
        assert_eq!(from_oklch(0.627955, 0.257683, 29.2339).hex(), "#ff0000"); // red, from the same publication
        assert_eq!((Color::of(f64::NAN), Color::of(-3.0)), (Color::of(0.0), Color::of(0.0)));
        assert!((Color([255, 255, 255]).luminance() - 1.0).abs() < 1e-12);
    }
}
