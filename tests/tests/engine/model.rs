//! Two small models: one that touches every kernel, one that is trained.

use crate::{random, with_gradients};
use attentia_backend::{AdamW, CrossEntropy, DType, Device, RngKey};
use attentia_tensor::{Result, Tensor, Var};

/// Two layers with attention between them: everything that a training step of a small model does.
pub fn forward_and_backward(device: &Device, dtype: DType) -> Result<Vec<Tensor>> {
    let (batch, time, heads, width, classes) = (4, 96, 4, 64, 301);
    let table = random(1, &[classes, width], dtype, device)?;
    let projection = random(2, &[width, 3 * width], dtype, device)?.mul_scalar(0.125)?;
    let up = random(3, &[width, 4 * width], dtype, device)?.mul_scalar(0.125)?;
    let down = random(4, &[4 * width, width], dtype, device)?.mul_scalar(0.0625)?;
    let (gain, shift) = (random(5, &[width], dtype, device)?, random(6, &[width], dtype, device)?);
    let ids: Vec<i64> = (0..batch * time).map(|i| (i * i % classes) as i64).collect();
    let ids = Tensor::from_slice(&ids, &[batch, time], device)?;
    let future = Tensor::tril_mask(time, time, 0, device)?;
    with_gradients(&[table, projection, up, down, gain, shift], move |x| {
        let [table, projection, up, down, gain, shift] = x else { return Ok(Vec::new()) };
        let embedded = table.embedding(&ids)?; // [B, T, C]
        let normed = embedded.layer_norm(Some(gain), Some(shift), 1e-5)?;
        let qkv = normed.matmul(projection)?; // [B, T, 3C]
        let heads_of = |part: usize| {
            let part = qkv.narrow(-1, part * width, width)?; // [B, T, C]
            part.reshape(&[batch as isize, time as isize, heads as isize, -1])?.transpose(1, 2) // [B, H, T, D]
        };
        let (q, k, v) = (heads_of(0)?, heads_of(1)?, heads_of(2)?);
        let scores = q.matmul(&k.transpose(-1, -2)?)?.mul_scalar(0.25)?; // [B, H, T, T]
        let weights = scores.masked_softmax(&future, -1)?.dropout(0.1, RngKey::new(8))?;
        let mixed = weights.matmul(&v)?.transpose(1, 2)?.reshape(&[batch as isize, time as isize, -1])?; // [B, T, C]
        let hidden = (mixed + &embedded)?;
        let fed = hidden.rms_norm(Some(gain), 1e-5)?.matmul(up)?.gelu()?.matmul(down)?;
        let logits = (fed + &hidden)?.matmul(&table.t()?)?; // [B, T, V]
        let logits = logits.reshape(&[-1, classes as isize])?;
        let spec = CrossEntropy { label_smoothing: 0.1, ignore_index: None };
        Ok(vec![logits.cross_entropy(&ids.reshape(&[-1])?, spec)?.mean_all()?])
    })
}

/// A small model with an optimiser's state, trained in place.
pub struct Training {
    device: Device,
    pub parameters: Vec<(Var, Tensor, Tensor)>,
}

impl Training {
    pub fn new(device: &Device) -> Result<Training> {
        let shapes: [&[usize]; 4] = [&[16, 64], &[64], &[64, 10], &[10]];
        let parameter = |(i, shape): (usize, &&[usize])| {
            let value = random(i as u64, shape, DType::F32, device)?.mul_scalar(0.2)?;
            let moment = || Tensor::zeros(shape, DType::F32, device);
            Ok((Var::new(value)?, moment()?, moment()?))
        };
        let parameters = shapes.iter().enumerate().map(parameter).collect::<Result<Vec<_>>>()?;
        Ok(Training { device: device.clone(), parameters })
    }

    pub fn loss(&self, step: u64) -> Result<Tensor> {
        let x = Tensor::randn(RngKey::new(40).step(step), &[32, 16], DType::F32, &self.device)?; // [N, C]
        let targets = x.narrow(-1, 0, 10)?.argmax(-1, false)?; // [N]
        let tensors: Vec<Tensor> = self.parameters.iter().map(|(var, _, _)| var.tensor()).collect();
        let hidden = (x.matmul(&tensors[0])? + &tensors[1])?.gelu()?.dropout(0.1, RngKey::new(41).step(step))?;
        let logits = (hidden.matmul(&tensors[2])? + &tensors[3])?;
        logits.cross_entropy(&targets, CrossEntropy::default())?.mean_all()
    }

    pub fn step(&mut self, step: u64) -> Result<f32> {
        let loss = self.loss(step)?;
        let value = loss.item::<f32>()?;
        let grads = loss.backward()?;
        let spec = AdamW {
            learning_rate: 1e-2,
            betas: (0.9, 0.99),
            epsilon: 1e-8,
            weight_decay: 0.01,
            step: step + 1,
            gradient_scale: 1.0,
        };
        for (var, first, second) in &mut self.parameters {
            let Some(gradient) = grads.get(var) else { panic!("a parameter has no gradient") };
            var.update_with([first, second], |p, [m, v]| self.device.adamw(&spec, gradient.view()?, p, m, v))?;
        }
        Ok(value)
    }
}
